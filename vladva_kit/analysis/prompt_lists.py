"""Fifty hand-written (image prompt, text prompt) pairs in the emoji world's vocabulary, and fifty in plain English."""

_EMOJI = """
summarize the provided {} in one word: | summarize the {} in one word: | summarize the {}: |
summarize the provided {}: | summarize {} in one word: | describe the {} in one word: |
describe the provided {} in one word: | describe the {}: | describe the {} in detail: |
describe the provided {} in detail: | say the {} in one word: | say the {} in other words: | say what the {} shows: |
say what is in the {}: | say what is in the {} in one word: | say in one word what the {} shows: |
say in one word what is in the {}: | say it in one word: | say it in other words: | say it: | in one word: |
in one word, the {} shows | in one word, the {} is | in one word, it is | one word: | one word of the {}: |
what is in the {}? | what is in the {} in one word? | what is the {} of? | what is the {}? | what is it? |
what is there? | what is there in the {}? | what is it of? | what things are in the {}? | what kind of {} is it? |
what kind of thing is in the {}? | how many things are in the {}? | what is the ground? | what color is it? |
provide a short caption: | provide a short caption of the {}: | provide a caption in one word: | provide one word: |
provide one word of the {}: | a caption of the {}: | the {} shows | the {} is of | the {} in one word: | it is a {} of
"""

_PLAIN = """
Summarize the provided {} in one word: | Summarize the above {} in one word: | Summarize this {} in one word: |
Summary of the above {} in one word: | Summary above {} in one word: | Summarize the {} in a single word: |
Summarize the {} in two words: | Summarize the {} in a few words: | Summarize the {} in one sentence: |
Summarize the {}: | Describe the {} in one word: | Describe this {} in one word: | Describe the {} in one sentence: |
Describe the {} briefly: | Describe the {} in detail: | Describe what the {} is about in one word: |
Describe the main subject of the {} in one word: | What is in the {}? Answer in one word: |
What is shown in the {}? Answer in one word: | What is the {} about? Answer in one word: |
What is the main subject of the {}? | What does the {} show? | What word describes the {} best? |
Which one word fits the {} best? | Give one word for the {}: | Give a title for the {}: |
Give a title of one word for the {}: | Give a short caption for the {}: | Give a keyword for the {}: |
Give the most important word for the {}: | Name the {} in one word: | Name the main thing in the {}: |
Name the category of the {}: | Name the scene in the {} in one word: | Express the {} in one word: |
Express the meaning of the {} in one word: | Represent the {} in one word: | Represent the {} for retrieval: |
Represent the given {}: | Compress the {} into one word: | Condense the {} into one word: | Encode the {} in one word: |
Label the {} with one word: | Tag the {} with one word: | Think of the {} and say one word: |
Say what you see in the {} in one word: | In one word, the {} is about: | In one word, the {} shows: |
The {} in one word: | This {} means in one word:
"""


def _pairs(templates: str) -> tuple[tuple[str, str], ...]:
    """Fill in "image" and "text" for each template; templates are separated by "|"."""
    return tuple((one.strip().format("image"), one.strip().format("text")) for one in templates.split("|"))


EMOJI_PROMPTS = _pairs(_EMOJI)
PLAIN_PROMPTS = _pairs(_PLAIN)
