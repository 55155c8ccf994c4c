"""Embeds sentences with transformers, without a folder: the shared arrays are the model's parameters.

    python transformers_embeddings.py sentence-transformers/all-MiniLM-L6-v2 "a cat" "a dog"
"""

import sys

import torch
import transformers

import weightsd

spec, *sentences = sys.argv[1:]
component = weightsd.load(spec, layout="source")
model = transformers.BertModel(transformers.BertConfig.from_pretrained(component.model.path))
missing, unexpected = model.load_state_dict(component.torch(), strict=False, assign=True)
assert not missing, missing
tokenizer = transformers.AutoTokenizer.from_pretrained(component.model.path)
with torch.inference_mode():
    states = model.eval()(**tokenizer(sentences, padding=True, return_tensors="pt")).last_hidden_state
print(states.mean(1).shape, component.report())
