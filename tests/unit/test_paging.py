from llava_av.paging import all_pages


def test_pages_are_fetched_one_after_the_other_when_they_are_needed() -> None:
    pages = {"": (["a", "b"], "2"), "2": ([], "3"), "3": (["c"], None)}
    fetched: list[str] = []

    def fetch(token: str) -> tuple[list[str], str | None]:
        fetched.append(token)
        return pages[token]

    found = all_pages(fetch)
    assert (next(found), next(found), fetched) == ("a", "b", [""])
    assert (list(found), fetched) == (["c"], ["", "2", "3"])
