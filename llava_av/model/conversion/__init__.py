"""New model folders from published weights, and the way back.

`released` says which settings and names of weights a released LLaVA model has here. `importing` converts a
released LLaVA model, and `composing` joins towers and a language model that were trained separately. Both
read the changes that a user asks for with `settings`, collect weights with `weights`, and complete, check and
write the folder with `folder_writing`. `to_released` writes a model in the format of a released one.
"""
