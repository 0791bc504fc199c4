"""Images and video frames up to the patches of a vision tower.

`anyres` splits an image of any shape into square tiles, counts their tokens and joins the features of the
tiles again. `tower` calls the Hugging Face vision towers in one way: square tiles and frames in, patches out.
"""
