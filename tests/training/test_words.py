import torch

from lab.models.vocabulary import whole_words
from lab.score.clip import open_clip
from lab.training.words import nearest_words


class Judge:
    """Images are all alike; texts are the more like them the more letters `e` they have."""

    def images(self, pixels):
        return torch.tensor([[1.0, 0.0]]).expand(len(pixels), 2)

    def texts(self, texts):
        angles = torch.tensor([text.count("e") / 10 for text in texts])
        return torch.stack([angles, 1 - angles], dim=1)


def test_words_are_whole_and_long_enough(sd1):
    words = whole_words(sd1.towers[0].tokenizer)
    assert {"apple", "dog", "red"} <= set(words)
    assert all(len(word) >= 3 and word.isalpha() for word in words)


def test_the_nearest_come_first(sd1, images):
    words = whole_words(sd1.towers[0].tokenizer)
    found = nearest_words(sd1, Judge(), sorted(images.iterdir()))(4)
    most = sorted(words, key=lambda word: -word.count("e"))
    assert [word.count("e") for word in found] == [word.count("e") for word in most[:4]]
    assert len(set(found)) == 4 and set(found) <= set(words)


def test_a_model_without_a_vision_half_has_no_clip(sd1):
    assert open_clip(sd1) is None
