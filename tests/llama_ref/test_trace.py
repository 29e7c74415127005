"""Intermediate values: written by llama.cpp's names, and the first operation that parts is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError
from llama_ref.text.model import Model
from tests.llama_ref.random_models import Shape, write_random_model
from toolchain.commands.main import main
from toolchain.verify.trace import verify_trace
from toolchain.verify.trace_files import read_trace

TOKENS = [1, 5, 60, 7, 7, 30]
SHAPE = Shape(n_head=4, head_dim=16, n_layer=2)
N_FF = 192


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "model.bin", SHAPE, "f16")


@pytest.fixture(scope="module")
def trace(model, tmp_path_factory) -> Path:
    """The trace of the reference arithmetic, and its logits."""
    folder = tmp_path_factory.mktemp("trace")
    assert main(logits_command(model, folder)) == 0
    return folder / "trace"


def logits_command(model: Path, folder: Path, *options: str) -> list[str]:
    files = ["--out", str(folder / "logits.npy"), "--trace", str(folder / "trace")]
    return ["logits", "-m", str(model), "--tokens", ",".join(map(str, TOKENS)), *files, "-q", *options]


def verified(path: Path, model: Path, **how: object):
    with Model.from_file(model, n_ctx=len(TOKENS), **{"numerics": "reference", **how}) as opened:
        return verify_trace(path, opened, TOKENS)


def copied(trace: Path, folder: Path, **changes: np.ndarray) -> Path:
    """The trace with other arrays; None takes one away."""
    folder.mkdir()
    for path in trace.glob("*.npy"):
        array = changes.get(path.stem.replace("-", "_"), np.load(path))
        if array is not None:
            np.save(folder / path.name, array)
    return folder


def of(trace: Path, name: str) -> np.ndarray:
    return np.load(trace / f"{name}.npy")


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_result_has_llama_cpp_s_name_and_shape(trace):
    n, e = len(TOKENS), SHAPE.n_embd
    heads = {"Qcur": (n, 4, 16), "Kcur": (n, 4, 16), "Vcur": (n, e), "kqv": (4, n, 16), "kq": (4, n, n)}
    heads["kq_soft_max"] = (4, n, n)
    wide = dict.fromkeys(("ffn_gate", "ffn_up", "ffn_swiglu"), (n, N_FF))
    plain = dict.fromkeys(("attn_norm", "kqv_out", "attn_out", "ffn_inp", "ffn_norm", "ffn_out", "l_out"), (n, e))
    expected = {f"{name}-{i}": shape for name, shape in {**heads, **wide, **plain}.items() for i in (0, 1)}
    expected |= {"inp_embd": (n, e), "result_norm": (n, e), "result_output": (n, SHAPE.n_vocab)}
    found = {path.stem: np.load(path) for path in trace.glob("*.npy")}
    assert {name: array.shape for name, array in found.items()} == expected
    assert {array.dtype for array in found.values()} == {np.dtype("<f4")}


def test_results_belong_together(trace):
    assert np.array_equal(of(trace, "l_out-0"), of(trace, "ffn_out-0") + of(trace, "ffn_inp-0"))
    assert np.array_equal(of(trace, "ffn_inp-1"), of(trace, "attn_out-1") + of(trace, "l_out-0"))
    joined = of(trace, "kqv-1").transpose(1, 0, 2).reshape(len(TOKENS), -1)
    assert np.array_equal(of(trace, "kqv_out-1"), joined)
    assert np.allclose(of(trace, "kq_soft_max-0").sum(axis=-1), 1, atol=1e-6)
    assert np.array_equal(of(trace, "result_output"), np.load(trace.parent / "logits.npy"))


def test_watching_changes_nothing(trace, model, tmp_path):
    command = logits_command(model, tmp_path, "--numerics", "reference")
    del command[command.index("--trace") : command.index("--trace") + 2]
    assert main(command) == 0
    assert (tmp_path / "logits.npy").read_bytes() == (trace.parent / "logits.npy").read_bytes()


@pytest.mark.parametrize("options", [["--numerics", "fast"], ["--batch", "2"]])
def test_what_has_no_intermediate_values_is_refused(model, tmp_path, options, capsys):
    assert main(logits_command(model, tmp_path, *options)) == 2
    assert ("--numerics reference" in (err := capsys.readouterr().err)) or "--batch" in err


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_arithmetic_is_identical(trace, model, capsys):
    command = ["verify", "--trace", str(trace), "-m", str(model), "--tokens", ",".join(map(str, TOKENS)), "-q"]
    assert main(command) == 0
    assert capsys.readouterr().out == "trace: identical: 35 results of the reference arithmetic\n"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parted"] is None


@pytest.mark.parametrize("how", [{"build": "scalar"}, {"build": "avx2"}, {"era": "2023-08-21"}])
def test_another_arithmetic_is_within_rounding(trace, model, how):
    report = verified(trace, model, numerics="exact", **how)
    assert (report.exit_code, report.sentence()[:15]) == (0, "within rounding")
    assert "kq-0" in report.unknown
    assert all(result.rms < 0.02 for result in report.results)


MISTAKES = {
    "attn_norm-0": lambda x: x * 1.1,
    "Qcur-0": lambda x: x[:, :, ::-1],
    "Kcur-1": lambda x: np.roll(x, 1, axis=0),
    "kq_soft_max-1": lambda x: np.full_like(x, 1 / 6),
    "ffn_swiglu-0": lambda x: np.abs(x),
    "l_out-1": lambda x: np.where(x == x.max(), np.nan, x),
    "result_output": lambda x: x[:, ::-1],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_first_operation_that_parts_is_named(trace, model, tmp_path, name):
    theirs = MISTAKES[name](of(trace, name))
    report = verified(copied(trace, tmp_path / "theirs", **{name.replace("-", "_"): theirs}), model)
    assert report.exit_code == 1
    result, before = report.parted
    assert (result.name, before) == (name, 0.0)
    assert result.ours == of(trace, name)[result.place]
    assert np.array_equal(result.theirs, theirs[result.place].astype(np.float64), equal_nan=True)
    assert f"expected, {result.theirs:.6g} found" in report.sentence()


def test_another_epsilon_parts_in_the_first_norm(trace, model):
    assert verified(trace, model, norm_eps=0.5).parted[0].name == "attn_norm-0"


def test_a_last_layer_for_the_last_token_only_is_compared(trace, model, tmp_path):
    short = {name: of(trace, name.replace("_1", "-1"))[-1:] for name in ("ffn_inp_1", "l_out_1", "result_norm")}
    assert verified(copied(trace, tmp_path / "theirs", **short), model).exit_code == 0


def test_scores_may_have_room_for_more_positions(trace, model, tmp_path):
    wide = np.pad(of(trace, "kq_soft_max-0"), ((0, 0), (0, 0), (0, 26)))
    assert verified(copied(trace, tmp_path / "theirs", kq_soft_max_0=wide), model).exit_code == 0


def test_other_shapes_part(trace, model, tmp_path):
    report = verified(copied(trace, tmp_path / "theirs", ffn_up_0=np.zeros((6, 5), "f4")), model)
    assert "ffn_up-0: shape [6, 192] expected, [6, 5] found" in report.sentence()


# ── what llama-eval-callback prints ──────────────────────────────────────────────────────────────────────────────────


def printed(array: np.ndarray, name: str, n: int = 3) -> str:
    """A result as common/debug.cpp prints it."""
    ne = [*reversed(array.shape), 1, 1, 1][:4]
    x = array.reshape(ne[::-1])
    lines = [f"common_debug_cb_eval: {name:>24} = (f32) {'MUL':>10}(norm{{{ne}}}, w{{1}}}}) = {{{str(ne)[1:-1]}}}"]

    def shown(count: int) -> list[int | None]:
        return [*range(n), None, *range(count - n, count)] if count > 2 * n else list(range(count))

    for i3 in range(ne[3]):
        lines.append("    [")
        for i2 in shown(ne[2]):
            lines.append("        ..., " if i2 is None else "        [")
            for i1 in [] if i2 is None else shown(ne[1]):
                if i1 is None:
                    lines.append("            ..., ")
                    continue
                numbers = ["   ..." if i0 is None else f"{x[i3, i2, i1, i0]:12.4f}" for i0 in shown(ne[0])]
                lines.append("            [" + ", ".join(numbers) + "  ],")
            lines += [] if i2 is None else ["        ],"]
        lines += ["    ]", f"    sum = {x[i3].sum():f}"]
    return "\n".join(lines) + "\n"


def dump(trace: Path, path: Path, **changes: np.ndarray) -> Path:
    names = sorted(each.stem for each in trace.glob("*.npy"))
    parts = [printed(changes.get(name.replace("-", "_"), of(trace, name)), name) for name in names]
    path.write_text("build: 1\nllama_context: n_ctx = 512\n" + "".join(parts) + "llama_perf: 3.00 ms\n")
    return path


def test_what_is_printed_is_read(trace, model, tmp_path):
    report = verified(dump(trace, tmp_path / "out.txt"), model)
    assert (report.exit_code, len(report.results)) == (0, 35)
    assert all(result.rms == 0 and not result.identical for result in report.results)


def test_what_is_printed_parts_where_it_should(trace, model, tmp_path):
    roped = of(trace, "Qcur-1")[::-1]
    result, _ = verified(dump(trace, tmp_path / "out.txt", Qcur_1=roped), model).parted
    assert result.name == "Qcur-1"
    assert abs(result.theirs - roped[result.place]) < 1e-4


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_shape_is_read_back(tmp_path_factory, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path_factory.mktemp("dump") / "out.txt"
    path.write_text(printed(array, "x-0"))
    values = read_trace(path)["x-0"]
    assert np.array_equal(values.values, values.places)
    assert values.places.max() == array.size - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "f: x = (f32) MUL(a) = {9, 1, 1, 1}\n]]]\n",
        "f: x = (f32) MUL(a) = {1, 1, 1, 1}\n[[[[1.0, 2.0]]]]\n",
        "f: x = (f32) MUL(a) = {2, 1, 1, 1}\n[1.0]\n",
        "f: x = (f32) MUL(a) = {99999999999, 99999999999, 1, 1}\n[[[[1.0]]]]\n",
    ],
)
def test_damaged_traces_are_refused(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(FormatError):
        read_trace(tmp_path / "t.txt")


def test_a_folder_without_arrays_is_refused(tmp_path, model, capsys):
    assert main(["verify", "--trace", str(tmp_path), "-m", str(model), "--tokens", "1", "-q"]) == 3
    assert "logits -m MODEL --tokens IDS --trace DIR" in capsys.readouterr().err
    np.save(tmp_path / "other.npy", np.zeros(3, "f4"))
    assert main(["verify", "--trace", str(tmp_path), "-m", str(model), "--tokens", "1", "-q"]) == 3
    assert "no result that this arithmetic has" in capsys.readouterr().err
