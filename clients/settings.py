"""What the command line can be told by the environment."""

from pydantic import Field

from tokenrelay.settings import ProcessSettings


class CommandLineSettings(ProcessSettings):
    """Settings of the command line; the variables begin with TOKENRELAY_."""

    targets: str = Field("localhost:50051", description="gateways to call, host:port, separated by commas")
    traces_url: str = Field(
        "http://127.0.0.1:16686", description="where `trace` asks for traces: Jaeger, or the local receiver"
    )
