"""How a language model is asked about a video, and what its answers are as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .grounded_text import GroundedText
from .tagged_text import CLOSE, DETECTION, OPEN, TaggedAnswer, read_answer, write_answer
from .tokenizer import Source, Tokenizer

VIDEO, VIDEO_END = "<vid_start>", "<vid_end>"
TAGS = (OPEN, CLOSE, DETECTION, VIDEO, VIDEO_END)
HERE = "{video}"
UNLIMITED = 1_000_000  # tokens; the language model has the limit


@dataclass(frozen=True)
class Prompt:
    """The words around a video; weights of others may have been trained with other words.

    Attributes:
        system: first sentence, where the tokenizer has no chat template of its own.
        lead: what the user says first; ``{video}`` stands for the video.
        questions: what the user asks for, in several wordings. One is drawn per clip in training, and the first is
            asked in evaluation.
        given_questions: the same where the sentence is given and only its boxes are asked for.
    """

    system: str = "A person asks an assistant about a video. The assistant answers briefly and says what it sees."
    lead: str = "{video} These are frames of the video, in their order."
    questions: Sequence[str] = (
        "Tell in one sentence what happens, with the boxes of all you name in between.",
        "What goes on in the video? Put the boxes of persons and things between your words.",
        "Say what you see in the video, and give boxes along with the words for them.",
        "Who does what here? Let boxes of all that takes part stand among the words.",
        "Describe the scene in a sentence, and mark with boxes whatever it speaks of.",
        "Sum up the video; each person and each thing in it comes with its boxes in place.",
    )
    given_questions: Sequence[str] = (
        "Find what is meant, and give one box of it for every frame.",
        "Where is it? Answer with one box per frame.",
        "Follow it through the video, with a single box in each frame.",
        "Which one is it? Mark it with a box, frame by frame.",
        "Give, for each of the frames, the box of what is spoken of.",
        "Show its place by one box in every frame of the video.",
    )

    def __post_init__(self) -> None:
        if self.lead.count(HERE) != 1:
            raise ValueError(f"prompt.lead must hold {HERE} once, where the video comes in: {self.lead!r}")
        if not self.questions or not self.given_questions:
            raise ValueError("prompt.questions and prompt.given_questions must each hold a question")

    @property
    def texts(self) -> list[str]:
        """All words that are ever said."""
        return [
            self.system,
            self.lead.replace(HERE, " "),
            "USER: ASSISTANT:",
            *self.questions,
            *self.given_questions,
        ]


class ChatTokenizer(Tokenizer):
    """A tokenizer of a causal language model, with the tags of grounded sentences as tokens.

    Args:
        source: a local folder, a name on the Hub that is in the local cache, or the files themselves.
        vocab_size: tokens that the network knows before tags are added.
        prompt: the words around a video.
        download: fetch it from the Hub if it is not on this machine.

    Attributes:
        end: id that ends an answer.
        pad: id that fills up.
        detection: id of [DET].

    Raises:
        ValueError: the tokenizer is not on this machine, is not the network's, or has no end of text.
    """

    def __init__(self, source: Source, vocab_size: int, prompt: Prompt, download: bool = False) -> None:
        from tokenizers import AddedToken

        super().__init__(source, UNLIMITED, vocab_size, download)
        own = self._tokenizer
        if own.eos_token_id is None:
            raise ValueError("the tokenizer has no end of text (eos_token): an answer could not end")
        own.add_tokens([AddedToken(tag, normalized=False, special=True) for tag in TAGS], special_tokens=True)
        self.prompt = prompt
        self.end: int = own.eos_token_id
        fills = (own.pad_token_id, own.unk_token_id, own.eos_token_id)
        self.pad: int = next(i for i in fills if i is not None)
        self.detection: int = own.convert_tokens_to_ids(DETECTION)
        self._video: int = own.convert_tokens_to_ids(VIDEO)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def question(self, number: int = 0, given: bool = False) -> tuple[list[int], int]:
        """A prompt up to where the answer begins.

        Args:
            number: which wording.
            given: the sentence is given.

        Returns:
            Its ids, and how many of them stand before the video; these are the same for all wordings.
        """
        asked = (self.prompt.given_questions if given else self.prompt.questions)[number]
        content = f"{self.prompt.lead.replace(HERE, VIDEO + VIDEO_END)}\n{asked}"
        own = self._tokenizer
        if own.chat_template is None:  # Vicuna's form
            text = f"{own.bos_token or ''}{self.prompt.system} USER: {content} ASSISTANT:"
        else:
            said = [{"role": "user", "content": content}]
            text = own.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        ids = self._ids(text)
        return ids, ids.index(self._video) + 1

    def answer(self, caption: GroundedText) -> list[int]:
        """Ids of what is to be said, with its end."""
        return [*self._ids(write_answer(caption)), self.end]

    def text(self, ids: Sequence[int]) -> str:
        """What was said, tags included; `ids` come without an end."""
        said: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return said

    def read(self, ids: Sequence[int]) -> TaggedAnswer:
        """The sentence in what was said; see `read_answer`."""
        return read_answer(self.text(ids))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
