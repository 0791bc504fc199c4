"""Audio up to the features of an audio tower.

`front_end` turns samples into the input of a tower (waveforms or log-mel windows), splits long audio into
windows and knows the number of features beforehand. `tower` runs wav2vec2, HuBERT, WavLM or Whisper's encoder
on it. `weight_norm` replaces the towers' weight-normed convolutions by ones that ZeRO-3 can partition.
"""
