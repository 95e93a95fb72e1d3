"""Corpora: reading text in many formats, splitting it, and writing token streams.

The steps, in the order a corpus takes them: `config` (what to read), `sources` (documents, from `lines`,
`tables` or `builtin`), `split` (train, valid, test), `prepare` (tokenizer and `streams`).
"""

from edgetext.corpus.config import BUILTIN, CorpusConfig, Unit
from edgetext.corpus.prepare import CorpusRecord, SplitRecord, load_record, prepare_corpus
from edgetext.corpus.sources import SUFFIXES, iter_documents
from edgetext.corpus.split import SPLITS, split_documents

__all__ = [
    "BUILTIN",
    "SPLITS",
    "SUFFIXES",
    "CorpusConfig",
    "CorpusRecord",
    "SplitRecord",
    "Unit",
    "iter_documents",
    "load_record",
    "prepare_corpus",
    "split_documents",
]
