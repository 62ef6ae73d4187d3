"""What others take beside us: every kind of query is asked of all, and each is told where it does best."""

SCRIPT = "alternatives"


def ask(calls, name, picture_ms):
    def asked(data, prompt):
        calls.append((name, data[:2], bool(prompt)))
        return {"picture": picture_ms, "encode": 2.0, "search": 1.0, "names": 0.5 if prompt else 0.0}

    return asked


def test_all_get_the_same_bytes_in_turns_and_the_first_round_is_not_counted(script):
    calls = []
    ways = {name: ask(calls, name, ms) for name, ms in ((script.OURS, 1.0), (script.PAPERS, 10.0))}
    found = list(script.measure(ways, 64, rounds=2))
    assert len(calls) == 2 * 2 * 2 * 3 * 2  # formats, prompts, ways, rounds with a warm-up, pictures
    assert [one[1:] for one in calls[::2]] == [one[1:] for one in calls[1::2]]
    assert {one[1] for one in calls} == {b"\x89P", b"\xff\xd8"}
    whole, stages = found[0]
    assert (whole["format"], whole["size"], whole["prompt"]) == ("PNG", 64, "with")
    assert whole[script.OURS] == 4.5 and whole[script.PAPERS] == 13.5
    assert stages[f"{script.PAPERS}: picture"] == 10.0


def test_a_way_is_told_by_the_cell_in_which_it_does_best(script):
    def row(size, **ms):
        return {"items": 9, "format": "PNG", "size": size, "prompt": "with", **ms}

    names = (script.OURS, script.PAPERS, script.CLIP, script.MILVUS)
    rows = [
        row(size, **dict(zip(names, ms, strict=True)))
        for size, ms in ((256, (2, 20, 4, 1)), (512, (4, 20, 20, 40)))
    ]
    aims = {aim["name"]: aim for aim in script.judge(rows)}
    assert [aim["value"] for aim in aims.values()] == [5.0, 2.0, 0.5]
    assert [aim["met"] for aim in aims.values()] == [True, True, False]
    assert aims[f"{script.CLIP} of 9 items over attributary"]["note"].startswith(
        "PNG of 256 px, with a prompt"
    )


def test_a_picture_is_cut_to_its_middle_at_the_size_that_is_read(script):
    (photograph, drawing) = script.contents(64).values()
    for picture in (photograph, drawing.resize((96, 64)), drawing.resize((40, 90))):
        assert script.shrunk(script.encoded(picture, {"format": "PNG"}), 32).shape == (32, 32, 3)
