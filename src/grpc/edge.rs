//! What stands between the transport and a generated service.
//!
//! Promises that a request which never reaches the service, because it is too large or no message
//! at all, is refused with a reason and values as every other; and gives tails their own bodies.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use tonic::{
    Code, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::{answer::Handoff, status::to_status};
use crate::core::Refusal;

/// A service behind the edge.
#[derive(Debug, Clone)]
pub(super) struct Edge<S>(pub(super) S);

impl<S: NamedService> NamedService for Edge<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Edge<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map(finish) })
    }
}

fn finish(mut answer: http::Response<Body>) -> http::Response<Body> {
    if let Some(handoff) = answer.extensions_mut().remove::<Handoff>() {
        *answer.body_mut() = handoff.take();
    }
    match answer.extensions().get::<Status>() {
        Some(status) if status.details().is_empty() => with_reason(status.clone()).into_http(),
        _ => answer,
    }
}

/// The status of a request that could not be read: what the transport says, as a refusal.
pub(super) fn with_reason(status: Status) -> Status {
    let refusal = match status.code() {
        Code::OutOfRange => too_large(status.message()),
        Code::Internal => Refusal::invalid("request", status.message().to_owned()),
        _ => return status,
    };
    to_status(&refusal.into())
}

/// The transport tells both sizes, but only as text.
fn too_large(message: &str) -> Refusal {
    let mut numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    let (size, limit) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Refusal::TooLarge { what: "request (bytes)".into(), size, limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::{Call, from_status};

    #[test]
    fn what_the_transport_refuses_gets_a_reason() {
        let status = Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
        );
        let error = from_status(&with_reason(status), Call::Command);
        assert_eq!(error.to_string(), "request (bytes) has 9, the limit is 8");
        let status = Status::internal("invalid wire type");
        let error = from_status(&with_reason(status), Call::Command);
        assert_eq!(error.to_string(), "request invalid wire type");
        assert_eq!(with_reason(Status::unimplemented("x")).code(), Code::Unimplemented);
    }
}
