"""Serves a bundle over HTTP, for trying it out: a completions endpoint that speaks OpenAI's protocol.

``edgetext serve`` is its command line; :mod:`edgetext.serving.app` makes the ASGI application.
"""
