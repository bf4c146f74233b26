"""The nets of P1 and P2, CP-Mobile and BC-ResNet are their tables, and their equations are those loops."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from random_nets import random_model, random_patches
from torch import nn

from export import int8
from export.graph import graph_of
from export.graph import run as run_graph
from runtime.frontend import CQT, GAMMATONE, MEL
from tests.conftest import run
from train import augment
from train.bcresnet import BCResNet
from train.cdnn import CDNN
from train.cnn7 import CNN7
from train.cpmobile import CPMobile
from train.crnn import CRNN
from train.depthwise import Depthwise
from train.features import PLANES, PatchShape, Stack, frontend_from_json
from train.items import Grid
from train.joint import Joint
from train.models import MODELS, NETS
from train.systems import SYSTEMS
from train.vgg import VGG, TinyVGG

# width the tests can afford -> arguments, input (frames, bands)
SMALL = {
    "cnn7": ({"widths": [4, 8, 8, 8, 8, 8]}, (3, 24, 16)),
    "cdnn": ({"width": 0.125}, (1, 24, 16)),
    "crnn": ({"width": 0.125}, (1, 24, 16)),
    "joint": ({"width": 0.125}, (1, 24, 16)),
    "vgg": ({"width": 0.125}, (1, 64, 16)),
    "tinyvgg": ({"width": 0.25}, (1, 64, 16)),
    "cpmobile": ({"width": 0.125}, (3, 24, 16)),
    "bcresnet": ({"width": 0.0625}, (3, 24, 16)),
    "attentive": ({"widths": [4, 6], "n_frames": 12, "n_bands": 8}, (3, 12, 16)),
    "learned": (
        {"sr": 4000, "n_filters": 8, "context": 2, "net": "lstm", "n_channels": 4, "n_lstm": 8, "pool": 2}, (1, 24, 64)
    ),
}  # fmt: skip


def small(name, **more):
    """An untrained net in eval mode that tells inputs apart."""
    torch.manual_seed(1)
    kwargs, _ = SMALL[name]
    return telling(MODELS[name](n_classes=4, **kwargs, **more))


def telling(model):
    """-> the model in eval mode, its statistics those of some training and its weights large."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data *= 2.5  # untrained nets say the same to everything
    return model.eval()


def patches(name, n=3):
    return torch.randn(n, *SMALL[name][1], generator=torch.Generator().manual_seed(2))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def block_shapes(layers, x):
    """(channels, frames, bands) behind each block: what the next convolution, or the end, is given."""
    shapes = []
    for layer in layers.eval():
        if isinstance(layer, nn.Conv2d) and layer.in_channels > 1:
            shapes.append(tuple(x.shape[1:]))
        x = layer(x)
    return [*shapes, tuple(x.shape[1:])]


def conv(kernel, cin, cout, bias=True):
    """Weights, biases, gamma and beta of the BN behind it."""
    return kernel * cin * cout + bias * cout + 2 * cout


def test_cdnn_is_its_table():
    net = CDNN(10)
    expected = [(32, 64, 64), (64, 32, 32), (128, 32, 32), (128, 16, 16), (256, 16, 16), (256, 16, 16)]
    assert block_shapes(net.maps, torch.zeros(1, 1, 128, 128)) == expected
    assert [tuple(layer.weight.shape) for layer in net.fc if isinstance(layer, nn.Linear)] == [
        (512, 256), (1024, 512), (10, 1024)
    ]  # fmt: skip
    blocks = [
        conv(81, 1, 32),
        conv(49, 32, 64),
        conv(25, 64, 128),
        conv(25, 128, 128),
        conv(9, 128, 256),
        conv(9, 256, 256),
    ]
    dense = 257 * 512 + 513 * 1024 + 1025 * 10
    assert parameters(net) == 2 + sum(blocks) + dense == 2_271_820  # 2: the BN in front of all
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.15, 0.2, 0.2, 0.25, 0.25, 0.3, 0.3]
    kinds = [type(layer).__name__ for layer in net.maps[:8]]
    assert kinds == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d", "AvgPool2d", "Dropout", "Conv2d", "ReLU"]


def test_crnn_is_its_table():
    """Pools along frequency only: 128 frames reach the GRU, whose two directions of 64 are 128, not the 256 in print."""
    net, x = CRNN(10).eval(), torch.randn(1, 1, 128, 128)
    expected = [(32, 128, 64), (64, 128, 32), (128, 128, 16), (256, 128, 1)]
    shapes, y = [], x
    for layer in net.maps.convolutions:
        y = layer(y)
        shapes += [tuple(y.shape[1:])] if isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)) else []
    assert shapes == expected
    assert net.maps(x).shape == (1, 128, 128, 1) and net.pool(net.maps(x)).shape == (1, 128)
    blocks = [conv(4, 1, 32), conv(4, 32, 64), conv(4, 64, 128), conv(4, 128, 256)]
    gru = 2 * 3 * (256 * 64 + 64 * 64 + 2 * 64)  # directions, gates
    assert parameters(net) == 2 + sum(blocks) + gru + 129 * 512 + 513 * 1024 + 1025 * 10 == 898_860


def test_joint_concatenates_384():
    net, x = Joint(10).eval(), torch.randn(2, 1, 128, 128)
    assert net.maps(x).shape == (2, 384, 16, 1)
    vectors = net.pool(net.maps(x))
    spatial, temporal = net.spatial(x).mean((2, 3)), net.temporal(x).mean((2, 3))
    assert torch.allclose(vectors, torch.cat([spatial, temporal], dim=1), atol=1e-5)
    halves = parameters(net.spatial) + parameters(net.temporal)
    assert parameters(net) == halves + 385 * 2048 + 2049 * 1024 + 1025 * 10 == 4_798_830


def test_vgg_is_its_table_and_its_size():
    """18.9 MiB, as printed; with 44.1 kHz, hop 512 and 10 s it hears 862 frames."""
    net = VGG(10)
    pairs = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    count = sum(conv(9, cin, cout, bias=False) for cin, cout in pairs) + 513 * 512 + 513 * 10
    assert parameters(net) == count == 4_953_930 and round(4 * count / 2**20, 1) == 18.9
    expected = [
        (64, 100, 40),
        (64, 25, 20),
        (128, 25, 20),
        (128, 6, 10),
        (256, 6, 10),
        (256, 3, 5),
        (512, 3, 5),
        (512, 3, 5),
    ]
    assert block_shapes(net.shared, torch.zeros(1, 1, 100, 40)) == expected
    five = MODELS["strategies"](10, "vgg", {}, n_sub_bands=5)
    assert parameters(five) * 4 / 2**20 == pytest.approx(94.4, abs=0.1)  # SPSMF as printed: why it is five bands


def test_tiny_net_counts():
    """473 and 485 KB; P2 prints 468 and 491, whose difference no count of two more input planes can give."""
    one, three = TinyVGG(3), TinyVGG(3, bands=[64, 64, 64])
    assert parameters(one) == 121_027 and parameters(three) == 124_163
    assert [round(4 * parameters(net) / 1024) for net in (one, three)] == [473, 485]
    expected = [(32, 25, 32), (32, 6, 16), (64, 3, 8), (64, 3, 8)]
    assert block_shapes(one.shared, torch.zeros(1, 1, 100, 64)) == expected


@pytest.mark.parametrize(
    "kernel, stride, dilation",
    [((3, 3), (1, 1), (1, 1)), ((3, 3), (1, 2), (1, 1)), ((3, 1), (1, 1), (4, 1)), ((5, 5), (1, 1), (1, 1))],
)
def test_depthwise_trains_as_it_runs(kernel, stride, dilation):
    """As a dense convolution or not, it is each channel's own convolution, and its weights learn the same."""
    torch.manual_seed(0)
    layer, x = Depthwise(6, kernel, stride, dilation), torch.randn(2, 6, 12, 9)
    padding = [size // 2 * step for size, step in zip(kernel, dilation)]
    alone = [
        nn.functional.conv2d(x[:, i : i + 1], layer.weight[i : i + 1], None, stride, padding, dilation)
        for i in range(6)
    ]
    pull = torch.randn(torch.cat(alone, dim=1).shape)
    (expected,) = torch.autograd.grad((torch.cat(alone, dim=1) * pull).sum(), layer.weight)
    for mode in (True, False):
        y = layer.train(mode)(x)
        assert torch.allclose(y, torch.cat(alone, dim=1), atol=1e-5)
        (gradient,) = torch.autograd.grad((y * pull).sum(), layer.weight)
        assert torch.allclose(gradient, expected, atol=1e-4)


def test_cpmobile_is_its_table():
    """The authors' net for DCASE 2023's 128 K parameters; theirs has one plane for our three, and GRN."""
    net, x = CPMobile(10).eval(), torch.zeros(1, 3, 128, 128)
    expected = [
        (8, 64, 64), (32, 32, 32), (32, 32, 32), (32, 16, 16), (32, 16, 16), (72, 16, 8), (72, 16, 8), (168, 16, 8)
    ]  # fmt: skip
    shapes = []
    for layer in net.maps:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == expected
    blocks = [(32, 32), (32, 32), (32, 32), (32, 72), (72, 72), (72, 168)]
    count = conv(9, 3, 8, False) + conv(9, 8, 32, False) + conv(1, 168, 10, False)
    for cin, cout in blocks:
        count += conv(1, cin, 3 * cin, False) + conv(9, 1, 3 * cin, False) + conv(1, 3 * cin, cout, False)
    assert parameters(net) == count == 127_084
    assert [block.adds for block in net.maps[2:]] == [True, True, True, False, True, False]


def test_bcresnet_is_its_table():
    """Twelve blocks in four stages, time dilated by 1, 2, 4, 8; a quarter of the width is the paper's BC-ResNet-2."""
    net, x = BCResNet(10, width=0.25).eval(), torch.zeros(1, 3, 128, 128)
    stages = [(16, 64, 32)] * 2 + [(24, 64, 16)] * 2 + [(32, 64, 8)] * 4 + [(40, 64, 8)] * 4
    shapes = []
    for layer in net.maps:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 64, 32), *stages, (40, 64, 8), (64, 64, 8)]
    blocks = net.maps[1:13]
    assert [b.along_time[0][0].dilation[0] for b in blocks] == [1, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8]
    assert [i for i, b in enumerate(blocks) if b.is_transition] == [0, 2, 4, 8]
    assert net.maps[0][0].stride == (2, 4) and BCResNet(10, band_stride=2).maps[0][0].stride == (2, 2)


@pytest.mark.parametrize("index", [0, 1])
def test_a_broadcast_block_by_a_loop(index):
    """x + f2(x) + f1 of its mean over the bands, the same for every band; a transition block does not add x."""
    block = telling(BCResNet(4, width=0.0625)).maps[1:13][index]
    x = torch.randn(2, 8 if index == 0 else 4, 9, 6)
    y = block.across_bands(x)
    rows = torch.stack([sum(y[..., band] for band in range(6)) / 6], dim=3)
    along = block.along_time(rows)
    for band in range(6):
        total = y[..., band] + along[..., 0] + (0 if block.is_transition else x[..., band])
        assert torch.allclose(block(x)[..., band], total.clamp(min=0), atol=1e-5)


@pytest.mark.parametrize("name", ["cpmobile", "bcresnet"])
def test_nothing_but_convolutions_is_left(name):
    """Every BN folds into the convolution in front of it, borders included; what remains has an operator in int8."""
    net, x = small(name), patches(name)
    logits = net(x)
    for layer in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        if len(layer) > 1 and isinstance(layer[1], nn.BatchNorm2d):
            layer[0] = nn.utils.fusion.fuse_conv_bn_eval(layer[0], layer[1])
            layer[1] = nn.Identity()
    assert torch.allclose(net(x), logits, rtol=1e-4, atol=1e-4)
    kinds = {type(m).__name__ for m in net.modules() if not list(m.children())}
    assert kinds <= {"Conv2d", "Depthwise", "Linear", "ReLU", "AvgPool2d", "Identity"}


def test_help_lists_each_system_with_its_true_size():
    for name, system in SYSTEMS.items():
        net = MODELS[name](n_classes=10, **system.shapes["full"])
        count = parameters(net)
        if name == "cnn7":  # the paper counts gamma and beta in front of each convolution only, and no FC bias
            count -= sum(2 * block.after.num_features for block in net.blocks) + 10
        assert f"{count:,} parameters" in system.about
    printed = run("train", "--help").stdout
    assert all(system.about in printed for system in SYSTEMS.values())


def test_frequency_convolution_by_a_loop():
    """Four bands of one frame, one below and two above its own."""
    net = small("crnn").maps.convolutions[1:3]  # zero padding, first convolution
    x = torch.randn(1, 1, 3, 9)
    weight, bias = (p.detach().numpy() for p in net[1].parameters())
    expected = np.zeros((len(weight), 3, 9))
    for cout in range(len(weight)):
        for frame in range(3):
            for band in range(9):
                expected[cout, frame, band] = bias[cout]
                for k in range(4):
                    if 0 <= band - 1 + k < 9:
                        expected[cout, frame, band] += weight[cout, 0, 0, k] * float(x[0, 0, frame, band - 1 + k])
    assert net(x)[0].detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_gru_by_a_loop():
    """Reset, update and new gate of both directions, frame by frame; then each frame's vector is [forward, backward]."""
    half = small("crnn").maps
    x = torch.randn(1, 1, 6, 16)
    features = half.convolutions(x)[0, :, :, 0].T.detach().double().numpy()  # (frames, channels)
    weights = {name: p.detach().double().numpy() for name, p in half.gru.named_parameters()}
    n = half.gru.hidden_size

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    def walk(frames, suffix):
        w_in, w_h, b_in, b_h = (
            weights[f"{kind}_l0{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, out = np.zeros(n), {}
        for t in frames:
            a, b = w_in @ features[t] + b_in, w_h @ h + b_h
            reset, update = sigmoid(a[:n] + b[:n]), sigmoid(a[n : 2 * n] + b[n : 2 * n])
            new = np.tanh(a[2 * n :] + reset * b[2 * n :])
            h = (1 - update) * new + update * h
            out[t] = h
        return out

    forward, backward = walk(range(6), ""), walk(reversed(range(6)), "_reverse")
    expected = np.array([np.concatenate([forward[t], backward[t]]) for t in range(6)])
    assert half(x)[0, :, :, 0].T.detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_global_pooling_of_p2_by_a_loop():
    maps = torch.randn(2, 3, 5, 4)
    expected = [[max(sum(maps[n, c, t]) / 4 for t in range(5)) for c in range(3)] for n in range(2)]
    assert torch.allclose(VGG.pool(None, maps), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_spsmt_by_a_loop(name):
    """The net's own classifier on each frame (mean over frequency), probabilities averaged; no parameters of its own."""
    net, x = small(name), patches(name)
    wrapped = MODELS["strategies"](4, name, {**SMALL[name][0]}, frame_decisions=True).eval()
    assert parameters(wrapped) == parameters(net)
    wrapped.nets[0].load_state_dict(net.state_dict())
    maps = net.maps(x)
    assert maps.shape[2] > 1
    for i in range(len(x)):
        p = torch.zeros(4)
        for frame in range(maps.shape[2]):
            vector = torch.stack([maps[i, c, frame].mean() for c in range(maps.shape[1])])
            p += net.head(vector[None])[0].softmax(0) / maps.shape[2]
        assert torch.allclose(wrapped(x)[i].exp(), p, atol=1e-5)
    assert (wrapped(x).exp() - net(x).softmax(1)).abs().max() > 1e-4  # and it is not the clip's decision


def test_spsmt_of_cnn7_survives_int8():
    """The graph's global pool spans the bands alone: the classifier, a 1x1 convolution, then meets every frame."""
    model, x = random_model((8, 12, 8, 16, 12, 16)), random_patches(8, 48, 32)
    model.fc.weight.data *= 10
    x += 3 * np.random.default_rng(1).standard_normal((8, 3, 48, 1)).astype("f4")  # frames that differ
    wrapped = MODELS["strategies"](10, "cnn7", {"widths": [8, 12, 8, 16, 12, 16]}, frame_decisions=True).eval()
    wrapped.nets[0].load_state_dict(model.state_dict())
    p = wrapped(torch.from_numpy(x)).exp().detach().numpy()
    graph = graph_of(wrapped, (3, 48, 32))

    def averaged(logits):  # (n, frames', classes): what a device does behind the file
        assert logits.shape == (8, 6, 10)
        return torch.from_numpy(logits).softmax(2).mean(1).numpy()

    assert averaged(run_graph(graph, x)) == pytest.approx(p, abs=1e-5)
    net = int8.quantize(graph, int8.calibrate(graph, x))
    quantized = averaged(int8.dequantize(net, int8.run(net, x)))
    assert np.abs(quantized - p).max() < 0.1 and (quantized.argmax(1) == p.argmax(1)).sum() >= 7
    assert np.abs(p - torch_p(model, x)).max() > 0.02  # no mere clip decision


def torch_p(model, x):
    return model(torch.from_numpy(x)).softmax(1).detach().numpy()


@pytest.mark.parametrize("name", NETS)
def test_spsmf_by_a_loop(name):
    """Two nets, each on its half of the bands; probabilities averaged."""
    kwargs, (planes, frames, bands) = SMALL[name]
    x = torch.randn(2, planes, frames, 2 * bands)
    wrapped = telling(MODELS["strategies"](4, name, kwargs, n_sub_bands=2))
    low, high = wrapped.nets
    expected = (low(x[..., :bands]).softmax(1) + high(x[..., bands:]).softmax(1)) / 2
    assert torch.allclose(wrapped(x).exp(), expected, atol=1e-6)
    assert (low(x[..., :bands]) - high(x[..., :bands])).abs().max() > 1e-4  # two nets, not one twice


@pytest.mark.parametrize("name, options, bands", [("crnn", {"frame_decisions": True}, 8), ("joint", {}, 8)])
def test_gradients(name, options, bands):
    """Of each decision's average, down to the input, in double precision."""
    net = MODELS["strategies"](3, name, {"width": 0.04}, **options).double().eval()
    x = torch.randn(1, 1, 8, bands, dtype=torch.double, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(net, (x,), atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_maps_pool_head_are_the_net(name):
    net, x = small(name), patches(name)
    assert torch.allclose(net.head(net.pool(net.maps(x))), net(x), atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_rebuilt_from_what_its_run_stores(name):
    net, x = small(name), patches(name)
    again = MODELS[name](**json.loads(json.dumps(net.kwargs))).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize("fusion", ["early", "middle", "late"])
def test_fused_nets_hear_each_spectrogram_in_its_place(fusion):
    """EF, MF and LF: each spectrogram reaches the logits, and where it lies matters."""
    bands = [12, 16, 12] if fusion == "late" else [16, 16, 16]
    net = small("tinyvgg", bands=bands, fusion=fusion)
    x = torch.randn(1, 1, 64, sum(bands))
    logits = net(x)
    for start, stop in zip(np.cumsum([0, *bands]), np.cumsum(bands)):
        y = x.clone()
        y[..., start:stop] += 1
        assert (net(y) - logits).abs().max() > 1e-5
    y = torch.cat([x[..., -bands[-1] :], x[..., bands[0] : -bands[-1]], x[..., : bands[0]]], dim=3)
    assert (net(y) - logits).abs().max() > 1e-5
    again = MODELS["tinyvgg"](**json.loads(json.dumps(net.kwargs))).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), logits)


def test_late_fusion_is_one_net_per_spectrogram_and_a_classifier():
    net = small("tinyvgg", bands=[16, 16], fusion="late")
    x = torch.randn(2, 1, 64, 32)
    vectors = [VGG.pool(None, own(part)) for own, part in zip(net.own, x.split(16, dim=3))]
    assert torch.allclose(net.head(torch.cat(vectors, dim=1)), net(x), atol=1e-6)


@pytest.mark.parametrize(
    "name, kwargs, words",
    [
        ("cdnn", {"width": 0}, "width 0"),
        ("crnn", {"width": float("nan")}, "width nan"),
        ("joint", {"width": "wide"}, "'wide'"),
        ("cpmobile", {"width": -0.5}, "width -0.5"),
        ("bcresnet", {"width": 5}, "width 5"),
        ("bcresnet", {"band_stride": 3}, "band_stride 3: choose 2 or 4"),
        ("bcresnet", {"band_stride": True}, "band_stride True"),
        ("vgg", {"fusion": "soon"}, "'soon'"),
        ("vgg", {"bands": []}, "bands"),
        ("vgg", {"bands": [40, 64]}, "--fusion late"),
        ("vgg", {"bands": [64.0]}, "whole numbers"),
        ("strategies", {"net": "os.system", "kwargs": {}}, "'os.system'"),
        ("strategies", {"net": "cdnn", "kwargs": {}, "n_sub_bands": 0}, "n_sub_bands 0"),
        ("strategies", {"net": "cdnn", "kwargs": {}, "frame_decisions": "yes"}, "'yes'"),
    ],
)
def test_bad_arguments(name, kwargs, words):
    with pytest.raises(ValueError, match=words):
        MODELS[name](n_classes=10, **kwargs)


def test_more_sub_bands_than_bands():
    with pytest.raises(ValueError, match="16 bands cannot be cut into 20"):
        MODELS["strategies"](4, "cdnn", {"width": 0.125}, n_sub_bands=20)(patches("cdnn"))


@pytest.mark.parametrize("planes", PLANES)
def test_planes_of_a_batch_are_those_of_a_clip(planes):
    shape = PatchShape(40, 40, planes)
    static = torch.randn(3, 16, shape.n_static)
    batch = augment.planes_of(static, planes)
    for one, clip in zip(batch, static.numpy()):
        assert one.numpy() == pytest.approx(shape.cut(clip)[0], abs=1e-5)
    assert batch.shape == (3, 3 if planes == "deltas" else 1, 40, 32 if planes == "stacked" else 16)


def test_delta_of_p1_by_a_loop():
    """Eq. (9), the 64 coefficients above their 64 deltas: 128 rows."""
    static = np.random.default_rng(0).normal(size=(64, 10)).astype("f4")
    (stacked,) = PatchShape(8, 8, "stacked").planes_of(static)
    for t in range(8):
        for row in range(64):
            assert stacked[row, t] == static[row, t + 1]
            assert stacked[64 + row, t] == pytest.approx((static[row, t + 2] - static[row, t]) / 2, abs=1e-6)


def test_patches_of_a_grid_are_those_that_are_scored():
    shape = PatchShape(20, 20, "static")
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(4, n)).astype(np.float32) for n in (65, 20)]
    pieces = Grid(clips, shape)
    assert pieces.clips == [0, 0, 0, 1]
    scored = np.concatenate([shape.cut(clip) for clip in clips])
    assert np.array_equal(augment.planes_of(torch.from_numpy(np.stack(list(pieces))), "static").numpy(), scored)


def test_oversampling_shows_every_class_equally_often():
    targets = torch.tensor([0] * 7 + [1] * 3 + [3])
    torch.manual_seed(0)
    order = augment.oversampled(targets)
    assert torch.bincount(targets[order]).tolist() == [7, 7, 0, 7]
    counts = torch.bincount(order, minlength=11)
    assert counts[:7].tolist() == [1] * 7 and set(counts[7:10].tolist()) == {2, 3} and counts[10] == 7


def test_shares_of_both_mixups():
    """The larger share of a uniform pair is uniform from 1/2 to 1: mean 3/4; Beta(0.05, 0.05) is nearly always 1."""
    torch.manual_seed(0)
    x, target = torch.ones(20_000, 1), torch.zeros(20_000, 2)
    target[:, 0] = 1
    target[::3] = torch.tensor([0.0, 1.0])

    def share(shares, rows):
        own = augment.mixup(torch.eye(2)[target[:, 1].long()], target, 0.05, shares)[1]
        mixed = own[rows].max(1).values
        return mixed[mixed < 0.999].numel() / mixed.numel()

    every = slice(None)
    assert share("beta", every) < 0.15 and share("uniform", every) == pytest.approx(4 / 9, abs=0.03)
    assert share("both", slice(0, None, 2)) < 0.15 and share("both", slice(1, None, 2)) == pytest.approx(
        4 / 9, abs=0.03
    )
    assert augment.mixup(x, target, 0.05, "both")[1].sum(1) == pytest.approx(1)


def test_a_stack_is_its_front_ends_and_wants_one_hop():
    stack = Stack((MEL, GAMMATONE, CQT))
    again = frontend_from_json(json.loads(json.dumps(stack.to_json())))
    assert again == stack and stack.n_bands == 384 and stack.bands == [128] * 3
    with pytest.raises(ValueError, match=r"620.*1120.*--hop-length"):
        Stack((MEL, dataclasses.replace(CQT, hop_length=1120)))


def test_old_cnn7_weights_still_fit():
    """Names of parameters are what a trained run is read by."""
    names = set(CNN7(4, [4, 8, 8, 8, 8, 8], decomposed=True).state_dict())
    assert {"blocks.0.conv.weight", "blocks.5.conv.branches.3.weight", "tail.running_mean", "fc.bias"} <= names
