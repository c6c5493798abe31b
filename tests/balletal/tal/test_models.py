import pytest
import torch

from balletal.tal.config import ModelConfig
from balletal.tal.models import AttentionBlock, LSTMEncoder, TemporalModel
from balletal.tal.sequences import collate

MODELS = ["lstm", "cnn", "transformer"]


def _model(name: str, boundary: str = "distance", upsample: int = 2, tags: int = 2, **options: int) -> TemporalModel:
    torch.manual_seed(0)
    layers = 2 if name == "lstm" else 3
    sizes = {"hidden": 8, "layers": layers, "upsample": upsample, "substep_dim": 8, "substep_layers": 2, "heads": 2}
    config = ModelConfig(name=name, boundary=boundary, **sizes | {"reach": 3, "substep_reach": 2} | options)
    return TemporalModel(config, in_dim=6, num_classes=3, num_tags=tags)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("boundary", "upsample"), [("distance", 4), ("fraction", 1)])
def test_shapes(name, boundary, upsample, sequences):
    features, mask = collate(sequences[:3])
    outputs = _model(name, boundary, upsample).eval()(features, mask)
    steps = features.shape[1] * upsample
    assert outputs.classes.shape == (3, steps, 3)
    assert outputs.boundaries.shape == (3, steps, 2)
    assert (outputs.boundaries >= 0).all()
    assert outputs.mask.sum() == mask.sum() * upsample
    assert outputs.quality.shape == ((3, steps) if boundary == "distance" else (0,))
    assert outputs.tags.shape == (3, steps, 2 if boundary == "distance" else 0)
    if boundary == "fraction":
        assert (outputs.boundaries <= 1).all()


@pytest.mark.parametrize("name", MODELS)
def test_without_tags_a_model_is_what_it_would_be_beside_them(name):
    plain, tagged = _model(name, tags=0).state_dict(), _model(name).state_dict()
    assert set(tagged) - set(plain) == {"tag_head.weight", "tag_head.bias"}
    assert all(torch.equal(value, tagged[key]) for key, value in plain.items())
    assert set(_model(name, "fraction", 1).state_dict()) == set(_model(name, "fraction", 1, tags=0).state_dict())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"levels": 3, "head_layers": 1, "bins": 4}, {"levels": 3, "upsample": 1}])
@pytest.mark.parametrize("name", MODELS)
def test_a_video_is_answered_alike_alone_and_in_a_padded_batch(name, options, training, sequences):
    assert any(len(sequence.features) % 2 for sequence in sequences[:4]), "levels of odd lengths"
    model = _model(name, **options).train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.LSTM):
            module.eval()
    features, mask = collate(sequences[:4])
    if training:  # batch statistics: compare with the same batch under longer padding
        wide = torch.cat([features, torch.full((4, 7, 6), 9.0)], 1)
        wide_mask = torch.cat([mask, torch.zeros(4, 7, dtype=torch.bool)], 1)
        alone, together, pick = model(features, mask), model(wide, wide_mask), slice(None)
    else:
        shortest = int(mask.sum(1).argmin())
        alone, together = model(*collate([sequences[shortest]])), model(features, mask)
        pick = slice(shortest, shortest + 1)
    both = torch.stack([together.at, together.stride], 1).tolist()
    same = [both.index(point) for point in torch.stack([alone.at, alone.stride], 1).tolist()]
    assert torch.equal(alone.mask, together.mask[pick, same])
    assert together.mask[pick].sum() == alone.mask.sum()
    for one, many in zip(alone[:4], together[:4], strict=True):
        assert torch.allclose(one[alone.mask], many[pick, same][alone.mask], atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_a_stretch_gives_what_the_whole_video_does(name):
    """Where the models look no farther than some steps, so that long videos can be gone through in stretches."""
    model = _model(name, levels=2, head_layers=1).eval()
    x, mask = torch.randn(1, 90, 6), torch.ones(1, 90, dtype=torch.bool)
    whole, part = model(x, mask), model(x[:, 20:80], mask[:, 20:80])
    at = part.at + 20 * 2
    inner = (at > 50 * 2) & (at < 55 * 2)
    both = torch.stack([whole.at, whole.stride], 1).tolist()
    same = [both.index(point) for point in torch.stack([at, part.stride], 1)[inner].tolist()]
    for one, many in zip(part[:4], whole[:4], strict=True):
        assert torch.allclose(one[0, inner], many[0, same], atol=1e-5)


def test_attention_in_blocks_is_attention_in_a_band():
    torch.manual_seed(0)
    block = AttentionBlock(8, reach=4, heads=2, dropout=0.0).eval()
    x, mask = torch.randn(2, 21, 8), torch.ones(2, 21, dtype=torch.bool)
    mask[1, 15:] = False
    q, k, v = block.qkv(x).view(2, 21, 3, 2, 4).permute(2, 0, 3, 1, 4)
    steps = torch.arange(21)
    seen = ((steps[:, None] - steps).abs() <= 4)[None] & mask[:, None]
    seen |= ~seen.any(-1, keepdim=True)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
    expected = expected.transpose(1, 2).reshape(2, 21, 8)
    assert torch.allclose(block._attend(x, mask)[mask], expected[mask], atol=1e-6)


def test_a_boundary_by_bins_is_their_expectation():
    model = _model("cnn", bins=4)
    said = torch.full((1, 1, 10), -30.0)
    said[0, 0, [3, 7, 8]] = 30.0  # start: all on bin 3; end: halves on bins 2 and 3
    assert model._distances(said)[0, 0].tolist() == pytest.approx([3.0, 2.5])


@pytest.mark.parametrize("name", MODELS)
def test_a_video_of_one_feature_can_be_trained_on_and_scored(name):
    model = _model(name)
    for mode in (True, False):
        outputs = model.train(mode)(torch.randn(1, 1, 6), torch.ones(1, 1, dtype=torch.bool))
        assert all(torch.isfinite(x).all() for x in outputs[:4])


def test_the_lstm_sees_the_whole_video_and_the_others_their_neighbourhood():
    x, mask = torch.zeros(1, 60, 6), torch.ones(1, 60, dtype=torch.bool)
    changed = x.clone()
    changed[0, 59] = 5.0
    for name, far in (("lstm", True), ("cnn", False), ("transformer", False)):
        model = _model(name).eval()
        assert bool((model(x, mask).classes[0, 0] != model(changed, mask).classes[0, 0]).any()) is far


def test_the_lstm_equals_a_packed_bidirectional_one(sequences):
    torch.manual_seed(0)
    encoder = LSTMEncoder(6, hidden=5, layers=2, dropout=0.5).eval()
    packed = torch.nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
    for layer in range(2):
        for part, suffix in ((encoder.forwards[layer], ""), (encoder.backwards[layer], "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                setattr(packed, f"{name}_l{layer}{suffix}", getattr(part, f"{name}_l0"))
    features, mask = collate(sequences[:4])
    lengths = mask.sum(1)
    rows = torch.nn.utils.rnn.pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed(rows)[0], batch_first=True)
    assert torch.allclose(encoder(features, mask)[..., :10][mask], expected[mask], atol=1e-6)
