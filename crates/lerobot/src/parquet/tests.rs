use super::*;

#[test]
fn row_lengths_of_lists_nulls_and_scalars() {
    let lengths = |defs: &[i16], reps: &[i16], levels, values| {
        let mut out = Column::<f32>::default();
        row_lengths(defs, reps, levels, values, &mut out);
        (out.lengths, out.null)
    };
    assert_eq!(lengths(&[], &[], 3, 3), (vec![1, 1, 1], None));
    assert_eq!(lengths(&[1, 0, 1], &[], 3, 2), (vec![1, 0, 1], None));
    assert_eq!(lengths(&[0, 0], &[], 2, 0), (vec![0, 0], None));
    // [a, b], null, [], [c, null]
    assert_eq!(lengths(&[3, 3, 0, 1, 3, 2], &[0, 1, 0, 0, 0, 1], 6, 3), (vec![2, 0, 0, 1], Some(3)));
    // [null, a], [b, c]
    assert_eq!(lengths(&[2, 3, 3, 3], &[0, 1, 0, 1], 4, 3), (vec![1, 2], Some(0)));
}
