// Answers as elements. Every text from the server is set as text, never as markup.

import { onePage, thumbnail } from "./api.js";

const COLOURS = ["#1f77b4", "#d1495b", "#2e933c", "#8456b8", "#c46a00", "#008b8b", "#a4508b", "#6b6b00", "#3d5a98", "#b23a48"];
const SVG = "http://www.w3.org/2000/svg";

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

// Absent where the bundle's calibration does not say.
const interval = (creator) => (creator.low === undefined || creator.high === undefined ? "" : `(${percent(creator.low)} to ${percent(creator.high)})`);

function link(address, text) {
  // Only addresses of the web: a creator's page may be anything that somebody wrote.
  if (!/^https?:\/\//i.test(address || "")) return document.createTextNode(text);
  return make("a", { href: address, rel: "noopener noreferrer nofollow", target: "_blank", textContent: text });
}

export function bar(answer) {
  const parts = answer.creators.filter((creator) => creator.share > 0)
    .map((creator, place) => ({ name: creator.creator, share: creator.share, between: interval(creator), colour: COLOURS[place % COLOURS.length] }));
  const named = parts.reduce((sum, part) => sum + part.share, 0);
  const others = Math.max(0, 1 - named - answer.diffuse_share - answer.withheld_share);
  if (others > 0.0005) parts.push({ name: "further creators", share: others, colour: "#5f7a8a" });
  if (answer.withheld_share > 0) parts.push({ name: "withheld", share: answer.withheld_share, colour: "#c79a2b" });
  if (answer.diffuse_share > 0) parts.push({ name: "nobody in particular", share: answer.diffuse_share, colour: "#8b949d" });
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 1000 10");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", `Shares: ${parts.map((part) => `${part.name} ${percent(part.share)}`).join(", ")}`);
  let left = 0;
  for (const part of parts) {
    const piece = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: left, y: 0, width: 1000 * part.share, height: 10, fill: part.colour })) {
      piece.setAttribute(name, String(value));
    }
    drawing.append(piece);
    left += 1000 * part.share;
  }
  const legend = make("ul", { className: "legend" }, ...parts.slice(0, 8).concat(parts.slice(8).filter((part) => /^(withheld|nobody)/.test(part.name))).map((part) => {
    const key = document.createElementNS(SVG, "svg");
    key.setAttribute("class", "key");
    key.setAttribute("viewBox", "0 0 1 1");
    key.setAttribute("aria-hidden", "true");
    const fill = document.createElementNS(SVG, "rect");
    fill.setAttribute("width", "1"); fill.setAttribute("height", "1"); fill.setAttribute("fill", part.colour);
    key.append(fill);
    return make("li", {}, key, make("span", { className: "name", textContent: part.name }),
      ...(part.between ? [make("span", { className: "between soft", textContent: part.between })] : []),
      make("span", { className: "share", textContent: percent(part.share) }));
  }));
  const told = parts.some((part) => part.between) ? [make("p", { className: "soft", textContent: "In brackets: between what this creator's influence lies nine times in ten." })] : [];
  return make("div", {}, make("div", { className: "bar" }, drawing), legend, ...told);
}

export function card(item, pictures, extra = []) {
  const picture = make("div", { className: "picture" });
  if (pictures) {
    thumbnail(item.id).then((address) => {
      const image = make("img", { alt: item.caption || `item ${item.id}`, src: address });
      image.addEventListener("load", () => URL.revokeObjectURL(address));
      picture.replaceChildren(image);
    }).catch(() => { picture.textContent = "no picture"; });
  } else picture.textContent = "no pictures in this bundle";
  return make("li", { className: "card" }, picture, ...extra,
    make("p", { textContent: item.caption || "(no caption)" }),
    make("p", { className: "who" }, link(item.creator_url, item.creator || "(unknown)"), ` · ${item.licence}`),
    make("p", { className: "soft" }, link(item.uri, `item ${item.id}`)));
}

function save(name, blob) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function saved(words, name, get) {
  const button = make("button", { type: "button", className: "plain", textContent: words });
  const told = make("span", { className: "bad", role: "status" });
  button.addEventListener("click", async () => {
    told.textContent = "";
    button.disabled = true;
    try {
      save(name, await get());
    } catch (error) {
      told.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  });
  return make("span", {}, button, told);
}

const json = (...parts) => new Blob(parts, { type: "application/json" });

// `asked` is [picture, prompt, how many]: what the answer is to.
export function answerOf(answer, title, pictures, asked) {
  const parts = [];
  if (title) parts.push(make("h3", { textContent: title }));
  if (answer.out_of_distribution) {
    parts.push(make("p", {
      className: "banner", role: "alert",
      textContent: "This picture resembles nothing that this bundle knows well enough. Nothing is given to anybody.",
    }));
  }
  parts.push(make("h3", { textContent: "Whose it is" }), bar(answer));
  parts.push(make("h3", { textContent: answer.out_of_distribution ? "Nearest items (no sources)" : "Sources, nearest first" }));
  parts.push(make("ol", { className: "cards" }, ...answer.items.map((item) => card(item, pictures, [
    make("p", { className: "share", textContent: `${item.rank}. ${percent(item.share)}` }),
    make("p", { className: "soft", textContent: `similarity ${item.similarity.toFixed(3)}` }),
  ]))));
  const downloads = [saved("Download this answer", "attribution.json", () => json(JSON.stringify(answer, null, 1)))];
  // Asked again, since the server prints its own answers only.
  downloads.push(saved("Download it as a page (PDF)", "attribution.pdf", () => onePage(...asked)));
  if (answer.receipt) {
    // The signed bytes as they are: another line break, and the signature would not hold.
    const bytes = Uint8Array.from(atob(answer.receipt), (sign) => sign.charCodeAt(0));
    downloads.push(saved("Download the signed receipt", "receipt.json", () => json(bytes)));
  }
  parts.push(make("p", { className: "row" }, ...downloads));
  parts.push(make("p", { className: "soft", textContent: `Answered by bundle ${answer.bundle_id}, revision ${answer.revision}.` }));
  return make("div", { className: "answer" }, ...parts);
}
