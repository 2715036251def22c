//! The bytes on the wire are those that protocol buffers define.

use super::*;

fn op(id: u64, key: &'static str) -> v1::PipelineOp {
    let get = v1::GetRequest {
        keyspace: "orders".into(),
        key: key.into(),
        options: None,
    };
    v1::PipelineOp {
        id,
        op: Some(v1::pipeline_op::Op::Get(get)),
        deadline_ms: 5,
        trace: Bytes::new(),
    }
}

/// The same message as protocol buffers define it.
#[derive(Clone, PartialEq, Message)]
struct Plain {
    #[prost(message, repeated, tag = "1")]
    ops: Vec<v1::PipelineOp>,
    #[prost(uint64, tag = "2")]
    other: u64,
}

#[test]
fn the_bytes_are_those_of_a_message_with_a_repeated_field() {
    let ops = vec![op(1, "a"), op(2, ""), op(3, "c")];
    let plain = Plain {
        ops: ops.clone(),
        other: 0,
    };
    let batch: PipelineRequest = ops.iter().cloned().collect();
    assert_eq!(batch.encode_to_vec(), plain.encode_to_vec());
    let decoded = PipelineRequest::decode(&plain.encode_to_vec()[..]).unwrap();
    assert_eq!(decoded.count(), 3);
    assert_eq!(decoded.items().collect::<Result<Vec<_>, _>>(), Ok(ops.clone()));
    let mut twice = batch.clone();
    twice.merge(&batch.encode_to_vec()[..]).unwrap();
    assert_eq!(
        twice.items().collect::<Result<Vec<_>, _>>(),
        Ok([ops.clone(), ops].concat())
    );
}

#[test]
fn an_answer_that_is_passed_on_looks_like_any_other() {
    let message = v1::WriteResponse {
        outcome: None,
        receipt: Some(v1::Receipt {
            index: 7,
            ..Default::default()
        }),
    };
    let mut builder = BatchBuilder::<v1::PipelineAnswer>::default();
    builder.pass_on(300, PassedOn::Write, &message.encode_to_vec().into());
    builder.pass_on(0, PassedOn::Get, &Bytes::new());
    let expected = [
        (300, v1::pipeline_answer::Answer::Write(message)),
        (0, v1::pipeline_answer::Answer::Get(v1::GetResponse::default())),
    ];
    let expected = expected.map(|(id, answer)| v1::PipelineAnswer {
        id,
        answer: Some(answer),
    });
    let batch = builder.take();
    let encoded: Vec<EncodedAnswer> = batch.clone().encoded_answers().map(Result::unwrap).collect();
    let again: PipelineResponse = encoded
        .iter()
        .map(|answer| v1::PipelineAnswer::decode(&answer.encode_to_vec()[..]).unwrap())
        .collect();
    assert_eq!(again.items().collect::<Result<Vec<_>, _>>(), Ok(expected.to_vec()));
    assert_eq!(batch.items().collect::<Result<Vec<_>, _>>(), Ok(expected.to_vec()));
}

#[test]
fn an_answer_to_be_passed_on_is_encoded_in_its_place() {
    let message = v1::GetResponse {
        value: Some(v1::Value {
            value: vec![7; 300].into(),
            ..Default::default()
        }),
        receipt: None,
    };
    let mut builder = BatchBuilder::<internal::Response>::default();
    let about = About {
        staleness: Some(Duration::from_micros(5)),
        weaker: true,
    };
    builder.push_to_pass_on(300, &message, &about);
    builder.push_to_pass_on(0, &v1::WriteResponse::default(), &About::default());
    let expected = [
        (300, Bytes::from(message.encode_to_vec()), Some(5), true),
        (0, Bytes::new(), None, false),
    ];
    let expected = expected.map(|(id, message, staleness_us, weaker)| internal::Response {
        id,
        result: Some(internal::response::Result::PassedOn(internal::PassedOn {
            message,
            staleness_us,
            weaker,
        })),
        receipt: None,
    });
    assert_eq!(
        builder.take().items().collect::<Result<Vec<_>, _>>(),
        Ok(expected.to_vec())
    );
}

#[test]
fn the_answers_to_a_joint_are_encoded_in_their_places() {
    let receipt = v1::Receipt {
        index: 7,
        staleness_us: Some(5),
        ..Default::default()
    };
    let values = [
        Some(v1::Value {
            value: vec![7; 300].into(),
            version: 3,
            expires_at_ms: 9,
        }),
        None,
        Some(v1::Value::default()),
    ];
    let mut builder = BatchBuilder::<internal::Response>::default();
    let about = About {
        staleness: Some(Duration::from_micros(5)),
        weaker: true,
    };
    builder.push_many_to_pass_on(300, &values, receipt.clone(), &about, Vec::new());
    builder.push_many_to_pass_on::<v1::Value>(1, &[], receipt.clone(), &About::default(), Vec::new());
    let message = |value| v1::GetResponse {
        value,
        receipt: Some(receipt.clone()),
    };
    let messages = values.map(|value| message(value).encode_to_vec().into()).to_vec();
    let expected = [(300, messages, Some(5), true), (1, Vec::new(), None, false)];
    let expected = expected.map(|(id, messages, staleness_us, weaker)| internal::Response {
        id,
        result: Some(internal::response::Result::PassedOnMany(internal::PassedOnMany {
            messages,
            staleness_us,
            weaker,
            refused: Vec::new(),
        })),
        receipt: None,
    });
    let answers: ResponseBatch = expected.iter().cloned().collect();
    let built = builder.take();
    assert_eq!(built, answers, "to the byte");
    assert_eq!(built.items().collect::<Result<Vec<_>, _>>(), Ok(expected.to_vec()));
}

#[test]
fn the_outcomes_of_a_joint_are_write_responses_and_say_which_were_refused() {
    let receipt = v1::Receipt {
        index: 7,
        ..Default::default()
    };
    let applied = v1::write_outcome::Outcome::Applied(v1::write_outcome::Applied {
        version: 7,
        existed: true,
    });
    let outcome = v1::WriteOutcome { outcome: Some(applied) };
    let refused = vec![internal::RefusedOfMany {
        number: 1,
        error: Some(v1::Error::default()),
    }];
    let mut builder = BatchBuilder::<internal::Response>::default();
    let outcomes = [Some(outcome), None];
    builder.push_many_to_pass_on(300, &outcomes, receipt.clone(), &About::default(), refused.clone());
    let response = builder.take().items().next().unwrap().unwrap();
    let Some(internal::response::Result::PassedOnMany(many)) = response.result else {
        panic!("{response:?}")
    };
    assert_eq!((response.id, many.messages.len()), (300, 2));
    let first = v1::WriteResponse {
        outcome: Some(outcome),
        receipt: Some(receipt),
    };
    assert_eq!(v1::WriteResponse::decode(many.messages[0].clone()), Ok(first));
    assert_eq!(many.refused, refused);
}

#[test]
fn fields_of_a_newer_program_are_skipped() {
    let plain = Plain {
        ops: vec![op(1, "a")],
        other: 77,
    };
    let decoded = PipelineRequest::decode(&plain.encode_to_vec()[..]).unwrap();
    assert_eq!(decoded.items().collect::<Result<Vec<_>, _>>(), Ok(plain.ops));
}

#[test]
fn a_builder_goes_on_after_a_batch_is_taken() {
    let mut builder = BatchBuilder::default();
    builder.push(&op(1, "a"));
    assert!(!builder.is_empty() && builder.bytes() > 0);
    let first = builder.take();
    builder.push(&op(2, "b"));
    let second = builder.take();
    assert!(builder.is_empty());
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[test]
fn a_batch_does_not_grow_beyond_what_a_message_may_be() {
    let large = |id: u64, bytes: usize| v1::PipelineAnswer {
        id,
        answer: Some(v1::pipeline_answer::Answer::Get(v1::GetResponse {
            value: Some(v1::Value {
                value: vec![0; bytes].into(),
                ..Default::default()
            }),
            receipt: None,
        })),
    };
    let mut builder = BatchBuilder::default();
    for (id, mib) in [(1, 1), (2, 2), (3, 3), (4, 9), (5, 1)] {
        builder.push(&large(id, mib << 20));
    }
    let mut ids = Vec::new();
    while !builder.is_empty() {
        let batch = builder.take();
        assert!(batch.encoded_len() < 10 << 20);
        ids.push(batch.items().map(|answer| answer.unwrap().id).collect::<Vec<_>>());
    }
    assert_eq!(ids, [vec![1, 2], vec![3], vec![4], vec![5]]);
}

#[test]
fn random_and_cut_bytes_are_refused_without_harm() {
    let whole = [op(1, "a"), op(2, "b")]
        .into_iter()
        .collect::<PipelineRequest>()
        .encode_to_vec();
    for end in 0..whole.len() {
        let cut = PipelineRequest::decode(&whole[..end]).unwrap();
        let items: Vec<_> = cut.items().collect();
        assert!(items.len() <= 2 && items.iter().take(items.len().saturating_sub(1)).all(Result::is_ok));
    }
    let mut noise = 1u64;
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..noise % 40)
            .map(|_| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (noise >> 56) as u8
            })
            .collect();
        noise = noise.wrapping_add(1);
        let batch = PipelineRequest::decode(&bytes[..]).unwrap();
        let _ = (batch.count(), batch.items().count());
    }
}
