"""Pictures with a data-mining property in their XMP."""

import io

from PIL import Image, PngImagePlugin

VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
ATTRIBUTE = '<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="{value}"/>'
ELEMENT = '<rdf:Description xmlns:p="http://ns.useplus.org/ldf/xmp/1.0/"><p:DataMining>{value}</p:DataMining></rdf:Description>'


def packet(value, form=ATTRIBUTE):
    return (
        '<?xpacket begin="\ufeff"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"{form.format(value=value)}</rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
    ).encode()


def picture(form="PNG", xmp_packet=None, number=0):
    image = Image.new("RGB", (40, 40), (30 + 40 * number, 90, 120))
    image.putpixel((3, 4), (250, 250, 250))
    out = io.BytesIO()
    more = {}
    if xmp_packet is not None and form == "PNG":
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp_packet.decode())
    elif xmp_packet is not None:
        more["xmp"] = xmp_packet
    image.save(out, form, **more)
    return out.getvalue()
