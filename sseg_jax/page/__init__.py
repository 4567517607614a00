"""The page of `python -m sseg_jax.demo`: a picture, words, coloured regions.

`handlers` does what the page's buttons ask for and knows nothing of Gradio.
`layout` builds the page of Gradio's parts, and `server` starts and stops it.
"""
