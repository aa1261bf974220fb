"""A file's digest is that of everything in it; that files are whole, test_runs.py shows."""

import pytest
import torch

from lab.files import Trouble, digest_of, write_atomically


def test_digest_is_that_of_every_value_type_shape_and_name():
    x = torch.arange(6.0)
    value = {"model": {"weight": x, "steps": torch.tensor(3)}, "history": [{"loss": 1.5}]}
    others = [x + torch.tensor([0, 0, 0, 0, 0, 1e-6]), x.view(2, 3), x.double(), -x,
              x.to(torch.bfloat16), x.int()]
    digests = {digest_of(value)} | {
        digest_of({**value, "model": {**value["model"], "weight": other}}) for other in others}
    digests |= {digest_of({**value, "history": [{"loss": 1.5000000001}]}),
                digest_of({**value, "history": [{"kl": 1.5}]}),
                digest_of({**value, "model": {"bias": x, "steps": torch.tensor(3)}})}
    assert len(digests) == len(others) + 4
    image = torch.rand(2, 3, 4, 4)
    assert digest_of(image) == digest_of(image.to(memory_format=torch.channels_last))


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(Trouble, match="could not be written"):
        write_atomically(tmp_path / "file" / "below.json", b"{}")
    assert (tmp_path / "file").read_text() == "kept"
