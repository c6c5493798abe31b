import pytest
import torch

from balletal.tal.config import ModelConfig
from balletal.tal.models import LSTMEncoder, TemporalModel
from balletal.tal.sequences import collate


def _model(name: str, boundary: str = "distance", upsample: int = 2) -> TemporalModel:
    torch.manual_seed(0)
    layers = 2 if name == "lstm" else 3
    config = ModelConfig(
        name=name, boundary=boundary, hidden=8, layers=layers, upsample=upsample, substep_dim=8, substep_layers=2
    )
    return TemporalModel(config, in_dim=6, num_classes=3)


@pytest.mark.parametrize("name", ["lstm", "cnn"])
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
    if boundary == "fraction":
        assert (outputs.boundaries <= 1).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_a_video_is_answered_alike_alone_and_in_a_padded_batch(name, training, sequences):
    model = _model(name).train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.LSTM):
            module.eval()
    features, mask = collate(sequences[:4])
    shortest = int(mask.sum(1).argmin())
    n = len(sequences[shortest].features)
    if training:  # batch statistics: compare with the same batch under longer padding
        wide = torch.cat([features, torch.full((4, 7, 6), 9.0)], 1)
        wide_mask = torch.cat([mask, torch.zeros(4, 7, dtype=torch.bool)], 1)
        alone, together = model(features, mask), model(wide, wide_mask)
        pick = slice(None)
    else:
        alone, together = model(*collate([sequences[shortest]])), model(features, mask)
        pick = slice(shortest, shortest + 1)
    for one, many in zip(alone[:3], together[:3], strict=True):
        length = 2 * n if not training else one.shape[1]
        real = together.mask[pick, :length]
        assert torch.allclose(one[:, :length][real], many[pick, :length][real], atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_a_video_of_one_feature_can_be_trained_on_and_scored(name):
    model = _model(name)
    for mode in (True, False):
        outputs = model.train(mode)(torch.randn(1, 1, 6), torch.ones(1, 1, dtype=torch.bool))
        assert all(torch.isfinite(x).all() for x in outputs[:3])


def test_the_lstm_sees_the_whole_video_and_the_cnn_its_neighbourhood():
    x, mask = torch.zeros(1, 60, 6), torch.ones(1, 60, dtype=torch.bool)
    changed = x.clone()
    changed[0, 59] = 5.0
    for name, far in (("lstm", True), ("cnn", False)):
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
