"""What every protocol of the gateway stands on: admission, the models, reading and relaying. It knows neither gRPC nor HTTP."""
