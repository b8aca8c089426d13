import pytest

from whatchanged.saes.links import neuronpedia_link

LINK = "https://www.neuronpedia.org/gpt2-small/8-res-jb/17"


@pytest.mark.parametrize(
    ("metadata", "link"),
    [
        ({"neuronpedia_id": "gpt2-small/8-res-jb"}, LINK),
        ({"metadata": {"neuronpedia_id": "gpt2-small/8-res-jb"}}, LINK),
        ({}, None),
        ({"neuronpedia_id": None, "metadata": None}, None),
        ({"neuronpedia_id": "gpt2-small"}, None),
        ({"neuronpedia_id": "a/b)](javascript:x"}, None),
        ({"neuronpedia_id": "a/b\n"}, None),
        ({"neuronpedia_id": 3}, None),
    ],
)
def test_the_link_comes_from_the_config_or_not_at_all(metadata, link):
    assert neuronpedia_link(metadata, 17) == link
