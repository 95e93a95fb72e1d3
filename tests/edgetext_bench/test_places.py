"""Less of this machine, another instruction set, a GPU, a sustained window, energy."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgetext_bench import Settings, markdown_table
from edgetext_bench.emulated_bench import bench_emulated
from edgetext_bench.energy import EnergyMeter
from edgetext_bench.limits import Limits
from edgetext_bench.summary import summarise
from edgetext_bench.targets import bench_on
from edgetext_runtime.errors import EdgetextError, InputError, ProviderError

FAST = Settings(threads=(1,), tokens=50, repeats=2, prompt="once", prompt_lengths=(), depths=(), batches=(1,))


def test_limits_are_read():
    assert Limits.parse("cores=1,mem=256M,cpu=0.5") == Limits(1, 0.5, 256 << 20)
    for wrong in ("", "cores=0", "cores=9999", "mem=lots", "mem=0", "cpu=0", "memory=1G", "cores"):
        with pytest.raises(InputError, match="mem=256M"):
            Limits.parse(wrong)


def test_fewer_cores_are_recorded_as_such(bundles):
    record = bench_on("limited:cores=1", bundles[:1], FAST)
    assert (record.label, record.on) == ("limited", "limited:cores=1")
    assert "not the figure of a smaller device" in markdown_table(record).replace("\n", " ").replace(
        "  ", " "
    )


def test_too_little_memory_ends_the_process_and_leaves_no_group(bundles):
    with pytest.raises(EdgetextError) as caught:
        bench_on("limited:mem=8M", bundles[:1], FAST)
    if "control groups need root" in str(caught.value):
        pytest.skip("control groups cannot be made here")
    assert "signal 9" in str(caught.value)
    assert not list(Path("/sys/fs/cgroup").glob("**/edgetext-*"))


def test_without_a_gpu_there_is_no_figure(bundles):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ProviderError, match="pip install onnxruntime-gpu"):
        bench_on("cuda", bundles, FAST)


def test_cuda_is_measured_beside_the_cpu(bundles):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not shutil.which("nvidia-smi"):
        pytest.skip("needs a GPU and onnxruntime-gpu")
    record = bench_on("cuda", bundles, replace(FAST, batches=(1, 8, 64)))
    assert [run.provider for run in record.runs] == ["cuda", "cuda", "cpu", "cpu"]
    assert record.runs[0].session["provider"] == "CUDAExecutionProvider"
    assert record.runs[0].session["device"]


def test_unknown_places_are_refused(bundles):
    for on in ("moon", "here:1", "emulated:z80", "cuda:1"):
        with pytest.raises(InputError, match="allowed"):
            bench_on(on, bundles, FAST)


def test_a_sustained_window_has_an_entry_a_second(bundles):
    record = bench_on("here", bundles[:1], replace(FAST, sustained_s=2.2))
    (run,) = record.runs
    assert len(run.sustained.tokens) == len(run.sustained.end_s) == 3
    assert 2.2 <= run.sustained.end_s[-1] < 4
    window = replace(run.sustained, p50_ns=(100, 100, 150), mhz=(None,) * 3, throttle_events=None)
    assert summarise(replace(run, sustained=window)).sustained.state == "slower"
    hot = replace(window, throttle_events=2)
    assert summarise(replace(run, sustained=hot)).sustained.state == "throttled"
    assert "throttled" in markdown_table(replace(record, runs=(replace(run, sustained=hot),)))


def test_energy_is_what_the_counters_gained(tmp_path):
    package = tmp_path / "rapl" / "intel-rapl:0"
    package.mkdir(parents=True)
    (package / "energy_uj").write_text("9000000")
    (package / "max_energy_range_uj").write_text("10000000")
    meter = EnergyMeter(tmp_path / "rapl", tmp_path / "none")
    (package / "energy_uj").write_text("500000")  # it has begun anew
    meter.sample(1.0)
    assert (meter.source, meter.joules()) == ("rapl", pytest.approx(1.5))


def test_energy_of_a_battery_is_power_times_time(tmp_path):
    battery = tmp_path / "BAT0"
    battery.mkdir()
    values = {"type": "Battery", "status": "Discharging", "current_now": "500000", "voltage_now": "4000000"}
    for name, value in values.items():
        (battery / name).write_text(value)
    meter = EnergyMeter(tmp_path / "none", tmp_path)
    meter.sample(10.0)
    meter.sample(13.0)
    assert meter.joules() == pytest.approx(0.5 * 4 * 3)
    (battery / "status").write_text("Charging")
    assert EnergyMeter(tmp_path / "none", tmp_path).joules() is None


@pytest.mark.skipif("EDGETEXT_TEST_EMULATED" not in os.environ, reason="EDGETEXT_TEST_EMULATED=1 runs it")
def test_an_emulated_processor_gives_tokens_and_counts_but_no_times(bundles):
    record = bench_emulated("emulated:aarch64", bundles[:1], FAST, processors=("max",))
    (found,) = record.emulations
    assert (record.label, record.runs, found.cpu) == ("emulated", (), "max")
    assert found.versions["machine"] == "aarch64"
    assert found.golden_failed == ()
    if found.instructions_load is not None:
        assert 1e4 < found.instructions_per_token < 1e7 < found.instructions_load
    assert "| fp32.etx | max " in markdown_table(record)
