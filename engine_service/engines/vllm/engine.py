"""vLLM's AsyncLLM behind the engine seam.

Each choice is an engine request of its own. Its outputs are taken where AsyncLLM's output handler puts them, without a
task per request: what one engine step gives for all requests is handed over in one go and leaves in one frame.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from vllm.exceptions import VLLMClientError
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from engine_service import continuation, loading, parent_death, placement
from engine_service.engines import EngineRequest, Sink, max_tokens
from engine_service.engines.vllm.choice_arguments import ChoiceArguments, structured_outputs
from engine_service.engines.vllm.engine_arguments import engine_arguments, engine_version, fingerprint, load
from engine_service.engines.vllm.errors import refusal
from engine_service.engines.vllm.grammars import Grammars
from engine_service.engines.vllm.prompts import Prompts
from engine_service.engines.vllm.run import VllmRun
from engine_service.engines.vllm.warm_ups import WARM_UPS
from engine_service.settings import EngineSettings
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import EngineUnavailableError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

HEALTH_INTERVAL = 0.5  # seconds


@dataclass(frozen=True)
class _Loaded:
    """A loaded engine, and what prepares its requests."""

    llm: AsyncLLM
    prompts: Prompts
    arguments: ChoiceArguments
    grammars: Grammars


class VllmEngine:
    """One model in AsyncLLM."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._loaded: _Loaded | None = None

    async def start(self) -> engine_service_pb2.DescribeEngineResponse:
        if self._settings.engine_core_cpus is not None:
            placement.check(self._settings.engine_core_cpus)
        parent_death.announce_parent()
        arguments = engine_arguments(self._settings)
        log.info("loading model", model=self._settings.model)
        llm = await loading.load(partial(load, arguments))
        config = llm.model_config
        prompts = Prompts(llm.renderer, config.max_model_len)
        self._loaded = _Loaded(llm, prompts, ChoiceArguments(llm), Grammars(llm))
        if self._settings.engine_core_cpus is not None:
            placement.keep_children_on(self._settings.engine_core_cpus)
        return engine_service_pb2.DescribeEngineResponse(
            model=self._settings.served_name,
            engine="vllm",
            engine_version=engine_version(),
            max_model_len=config.max_model_len,
            vocabulary_size=config.get_vocab_size(),
            fingerprint=fingerprint(config),
            slots=llm.scheduler_config.max_num_seqs,
        )

    def warm_ups(self) -> Sequence[generation_pb2.GenerationSpec]:
        return WARM_UPS

    def _loaded_now(self) -> _Loaded:
        if self._loaded is None or self._loaded.llm.errored:
            raise EngineUnavailableError("the engine is dead; its service restarts", retry_after=5.0)
        return self._loaded

    async def begin(self, request: EngineRequest, sink: Sink) -> VllmRun:
        continuation.refuse_if_impossible(request.spec.sampling_params, request.emitted.values())
        loaded = self._loaded_now()
        run = VllmRun(loaded.llm, request, sink)
        try:
            await self._begin_choices(loaded, run)
        except VLLMClientError as error:
            await run.cancel()
            raise refusal(error) from error
        except EngineDeadError as error:
            raise EngineUnavailableError("the engine died; its service restarts", retry_after=5.0) from error
        except BaseException:
            await run.cancel()
            raise
        return run

    async def _begin_choices(self, loaded: _Loaded, run: VllmRun) -> None:
        request, sink = run.request, run.sink
        params = request.spec.sampling_params
        prompt = await loaded.prompts.token_ids(request.spec)
        sink.measured.prompt_tokens = len(prompt)
        context = loaded.llm.model_config.max_model_len
        limit = max_tokens(len(prompt), request.spec, context, self._settings.default_max_tokens)
        loaded.arguments.check(params, limit)
        shape, kind = structured_outputs(params), params.WhichOneof("structured_output")
        if kind is not None:
            await loaded.grammars.judge(kind, params, loaded.arguments.of_choice(params, 0, limit, shape))
        for index in range(request.choices):
            emitted = request.emitted.get(index)
            if emitted is not None and emitted.HasField("end"):
                continue
            arguments = loaded.arguments.of_choice(params, index, limit, shape)
            if emitted is None or not emitted.token_ids:
                await run.begin_choice(index, prompt, arguments)
            else:
                await run.continue_choice(index, prompt, arguments, emitted)

    async def wait_until_dead(self) -> str:
        """EngineCore's death is permanent, and AsyncLLM says so only when it is asked."""
        while self._loaded is not None and not self._loaded.llm.errored:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(HEALTH_INTERVAL)
        return "vLLM's engine core died"

    async def close(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.grammars.close()
            await asyncio.to_thread(loaded.llm.shutdown)
