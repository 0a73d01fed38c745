"""docs/troubleshooting.md says of every mistake what the job says."""

from bench.mistakes import PAGE, TYPED, table


def test_the_page_has_the_line_of_every_mistake() -> None:
    assert table() in PAGE.read_text()
    assert len(set(TYPED)) >= 25
