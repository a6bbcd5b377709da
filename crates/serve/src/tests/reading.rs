//! How requests are read: where their frames lie, and what damage does.

use super::*;
use crate::observation::Observed;
use crate::options::Options as RequestOptions;
use crate::request::Request;
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::LazyLock;
use steadyhand_gr00t::Image;

#[test]
fn frames_stay_in_their_message_unless_most_of_it_is_something_else() {
    let session = session();
    let sent = [session.random(1), session.random(2)];
    let frames = |observations: &[Observation]| -> Vec<Arc<Image>> {
        observations.iter().flat_map(|o| o.images.values().flatten().cloned()).collect()
    };
    for (noise, stay) in [(0, true), (64 * 3 * 256 * 256, false)] {
        let message = Bytes::from(get_action(&sent, |writer| {
            writer.map(1);
            writer.str("note");
            writer.bin(&vec![7; noise]);
        }));
        let request = Request::read(&message, None).expect("a request");
        let observation = request.data.get("observation").expect("one");
        let modalities = session.parts.processor.modalities();
        let observed = Observed::read_from(&message, observation, modalities).expect("observations");
        let found = frames(&observed.observations);
        assert_eq!(found, frames(&sent));
        for frame in &found {
            assert_eq!(message.as_ptr_range().contains(&frame.rgb.as_ptr()), stay);
        }
        assert_eq!(message.is_unique(), !stay);
        drop((found, observed));
        assert!(message.is_unique(), "the next message is written over it");
    }
}

/// A session, and a request of two observations with frames of a few pixels, so that damage hits everything alike.
static SMALL: LazyLock<(Session, Vec<u8>)> = LazyLock::new(|| {
    let session = session();
    let mut observation = session.random(1);
    for frame in observation.images.values_mut().flatten() {
        *frame = Arc::new(Image { width: 2, height: 1, rgb: vec![5; 6].into() });
    }
    let request = get_action(&[observation.clone(), observation], |writer| {
        writer.map(2);
        writer.str("deadline_ms");
        writer.float(5.0);
        writer.str("seed");
        writer.int(3);
    });
    (session, request)
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn damaged_requests_are_read_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (session, request) = &*SMALL;
        let mut bytes = request.clone();
        for (place, byte) in &damage {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        let modalities = session.parts.processor.modalities();
        let bytes = Bytes::from(bytes);
        let read = Request::read(&bytes, None).and_then(|request| {
            let nothing = Value::Nil;
            let observation = request.data.get("observation").unwrap_or(&nothing);
            let observed = Observed::read_from(&bytes, observation, modalities)?;
            let count = observed.observations.len();
            RequestOptions::read(request.data.get("options"), modalities, count, observed.form.batched)?;
            Ok(count)
        });
        match read {
            Ok(count) => prop_assert!((1..=64).contains(&count)),
            Err(error) => prop_assert!(!damage.is_empty() && !error.to_string().is_empty(), "{error}"),
        }
    }
}
