"""Prompts into token ids, off the event loop."""

from dataclasses import replace
from typing import Any

import structlog
from vllm.exceptions import VLLMClientError
from vllm.inputs import TextPrompt
from vllm.renderers import ChatParams
from vllm.renderers.chat_utils import ChatTemplateResolutionError

from engine_service.engines import check_context
from engine_service.engines.vllm.errors import detail
from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class Prompts:
    """Renders prompts for one model.

    Args:
        renderer: vLLM's. One thread of it does all the tokenizing.
        context: how many tokens prompt and answer may have together.
    """

    def __init__(self, renderer: Any, context: int) -> None:
        self._renderer = renderer
        self._context = context

    async def token_ids(self, spec: generation_pb2.GenerationSpec) -> list[int]:
        """Returns a prompt's tokens.

        Raises:
            InvalidRequestError: the prompt is longer than the context, or the chat template does not take it.
        """
        kind = spec.WhichOneof("prompt")
        if kind == "token_ids":
            return list(spec.token_ids.ids)
        characters = len(spec.text) if kind == "text" else sum(len(message.content) for message in spec.chat.messages)
        self._check_length(spec, characters)
        if kind == "chat":
            return await self._chat(spec.chat)
        # The exact length is judged by us, with our field's name, so the renderer gets no limit.
        settings = replace(self._renderer.default_cmpl_tok_params, max_total_tokens=None)
        (rendered,) = await self._renderer.render_cmpl_async([TextPrompt(prompt=spec.text)], settings)
        return list(rendered["prompt_token_ids"])

    def _check_length(self, spec: generation_pb2.GenerationSpec, characters: int) -> None:
        """Refuses a text that is too long whatever its tokens are: all other prompts would wait for its tokenizing."""
        longest = self._renderer.get_tokenizer().max_chars_per_token
        if characters > self._context * longest:
            remark = f"; no token has more than {longest} of the text's {characters} characters"
            check_context(-(-characters // longest), spec, self._context, remark)

    async def _chat(self, chat: generation_pb2.Chat) -> list[int]:
        settings = replace(self._renderer.default_chat_tok_params, max_total_tokens=None)
        messages = [{"role": message.role, "content": message.content} for message in chat.messages]
        parameters = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        try:
            _, (rendered,) = await self._renderer.render_chat_async([messages], parameters, settings)
        except VLLMClientError as error:
            raise InvalidRequestError.of_field("spec.chat", detail(error)) from error
        except ChatTemplateResolutionError as error:
            raise InvalidRequestError.of_field("spec.chat", "this model has no chat template; send text or tokens") from error
        except ValueError as error:  # so the renderers of some model families refuse messages
            log.warning("a chat cannot be rendered", exc_info=True)
            raise InvalidRequestError.of_field("spec.chat", "the model's chat template does not take it") from error
        return list(rendered["prompt_token_ids"])
