from balletal.annotations import step_tags
from balletal.segments import segment_table


def test_a_step_has_the_tags_that_cover_half_of_it():
    steps = segment_table(["u", "u", "u", "v", "w"], [0.0, 1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 3.0, 1.0, 1.0], "A")
    tags = segment_table(
        ["u", "u", "v", "v", "other", "u"],
        [0.6, 2.5, 0.0, 0.4, 0.0, 0.0],
        [2.0, 2.9, 0.4, 0.7, 1.0, 3.0],
        ["Backwards", "Slow", "Slow", "Slow", "Slow", "Unknown"],
    )
    found = step_tags(steps, tags, ("Slow", "Backwards"))
    # 0.4 of the first is covered; of the fourth 0.7 by two segments, but by neither of them the half.
    assert found.tolist() == [[], ["Backwards"], [], [], []]
    wider = tags.assign(end=[2.0, 3.0, 0.5, 0.7, 1.0, 3.0])
    assert step_tags(steps, wider, ("Slow", "Backwards")).tolist() == [[], ["Backwards"], ["Slow"], ["Slow"], []]
    both = wider.assign(start=1.0, end=2.0, video_id="u")
    assert step_tags(steps, both, ("Slow", "Backwards"))[1] == ["Slow", "Backwards"]


def test_no_steps_no_tags_and_no_names():
    step, tag = segment_table("u", [0.0], [1.0], "A"), segment_table("u", [0.0], [1.0], "Backwards")
    assert step_tags(step, tag, ("Backwards",)).tolist() == [["Backwards"]]
    assert step_tags(step, tag, ()).tolist() == [[]]
    assert step_tags(step.iloc[:0], tag, ("Backwards",)).tolist() == []
    assert step_tags(step, tag.iloc[:0], ("Backwards",)).tolist() == [[]]
