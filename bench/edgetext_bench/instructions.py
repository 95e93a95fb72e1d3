"""Counts the instructions of an emulated program, by a plugin of qemu that this module writes and compiles.

The plugin adds the length of every block of translated code to a counter when it runs. It needs qemu's
user-mode emulator with plugins (Debian: ``qemu-user``; the static one has none) and a C compiler. Counts
are of guest instructions; with one thread two runs differ by less than a per cent.

Source of the interface: https://www.qemu.org/docs/master/devel/tcg-plugins.html (version 1 of it).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_PLUGIN = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum plugin_op { ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum plugin_op, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

int qemu_plugin_version = 1;
static uint64_t executed;
static char path[4096];

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed, qemu_plugin_tb_n_insns(block));
}

static void ended(plugin_id id, void *unused)
{
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%llu", (unsigned long long)executed);
        fclose(file);
    }
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    if (argc != 1 || strncmp(argv[0], "to=", 3) || strlen(argv[0]) >= sizeof path)
        return 1;
    strcpy(path, argv[0] + 3);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
"""


def counting_emulator(machine: str, folder: Path) -> tuple[Path, Path] | None:
    """An emulator that takes plugins, and the plugin; None where one of them or the compiler is missing.

    Args:
        machine: qemu's name of the instruction set, such as ``aarch64``.
        folder: where the compiled plugin is kept.
    """
    emulator, compiler = shutil.which(f"qemu-{machine}"), shutil.which("cc")
    if emulator is None or compiler is None:
        return None
    shown = subprocess.run([emulator, "--help"], capture_output=True, text=True, check=False).stdout
    if "-plugin" not in shown:
        return None
    source, plugin = folder / "count.c", folder / "count.so"
    source.write_text(_PLUGIN, encoding="ascii")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(plugin), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (Path(emulator), plugin) if done.returncode == 0 else None
