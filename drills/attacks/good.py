"""A good request for each method, which attacks spoil."""

from google.protobuf.message import Message

from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

SERVICE = b"/tokenrelay.v1.GenerationService/"
SUBMIT, CANCELS, GET = SERVICE + b"SubmitGeneration", SERVICE + b"CancelGeneration", SERVICE + b"GetGeneration"


def good_requests() -> dict[bytes, Message]:
    """Returns a good request for each method."""
    params = g.SamplingParams(max_tokens=5, temperature=0.5, seed=7, stop=["end"], logit_bias={5: 1.0})
    spec = g.GenerationSpec(text="a good request", sampling_params=params)
    chat = g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content="hi")]), sampling_params=params)
    name = "0-" + "0123456789abcdef" * 2
    return {
        SERVICE + b"Generate": s.GenerateRequest(spec=chat),
        SERVICE + b"GenerateStream": s.GenerateStreamRequest(spec=spec, on_disconnect=g.DISCONNECT_POLICY_CANCEL),
        SUBMIT: s.SubmitGenerationRequest(spec=spec),
        SERVICE + b"AttachGeneration": s.AttachGenerationRequest(generation_id=name, after_sequence=3),
        SERVICE + b"GetGeneration": s.GetGenerationRequest(generation_id=name),
        CANCELS: s.CancelGenerationRequest(generation_id=name),
        b"/tokenrelay.v1.ModelService/ListModels": s.GetGenerationRequest(generation_id="?"),
        b"/grpc.health.v1.Health/Check": s.GetGenerationRequest(generation_id="?"),
        b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": s.GetGenerationRequest(generation_id="?"),
    }
