"""The same model in other runtimes, measured beside its bundles: ``edgetext bench --peers``.

`compare` has what is measured, `systems` how each runtime is fed and asked, `gguf_file` llama.cpp's format.
Peers are imported in the processes that measure them, never here.
"""
