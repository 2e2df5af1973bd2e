"""`lposekit demo`: a local page that draws clips with a trained run. Read `serve.py` first."""
