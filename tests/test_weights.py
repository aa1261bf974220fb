"""The weights in the repository: each gives the loss that it promises."""

import pytest

import data
from lab.shipped import WEIGHTS, mean_loss, read_shipped
from lab.training import draw_images


@pytest.mark.parametrize("name", sorted(path.stem for path in WEIGHTS.glob("*.npz")))
@pytest.mark.parametrize("source", ["standin", "real"])
def test_what_is_in_the_repository_gives_the_loss_that_it_must(name, source):
    shipped = read_shipped(name)
    draws = draw_images(shipped.model, 64).mean().item()
    assert draws == pytest.approx(shipped.about["draws"], abs=1e-3)
    if shipped.model.encoder is None:
        return
    try:
        images = data.load(shipped.recipe.data, "test", shipped.recipe.side, source=source)
    except data.AbsentError:
        pytest.skip("the real images do not lie here")
    promised = shipped.about["loss"]["standin" if source == "standin" else "test"]
    assert mean_loss(shipped.model, images) == pytest.approx(promised, abs=0.1)
