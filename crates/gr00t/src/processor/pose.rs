//! End effector poses: rotation formats and composition, in f64.
//!
//! Source: the official `gr00t/data/state_action/pose.py`. Its 6-d rotation is the first two
//! ROWS of the rotation matrix; its rotation vector is SciPy's.

/// A rigid transformation: `x ↦ rotation · x + translation`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    /// Metres.
    pub translation: [f64; 3],
    /// Orthonormal, row-major.
    pub rotation: [[f64; 3]; 3],
}

impl Pose {
    /// From `[x, y, z, r00, r01, r02, r10, r11, r12]`, the two rows made orthonormal by Gram-Schmidt.
    /// `None` when the rows do not span a plane, or when there are not 9 values.
    pub fn from_xyz_rot6d(values: &[f64]) -> Option<Self> {
        let &[x, y, z, a0, a1, a2, b0, b1, b2] = values else { return None };
        let first = normalized([a0, a1, a2])?;
        let along = dot(first, [b0, b1, b2]);
        let second = normalized([b0 - along * first[0], b1 - along * first[1], b2 - along * first[2]])?;
        Some(Pose { translation: [x, y, z], rotation: [first, second, cross(first, second)] })
    }

    /// `self ∘ other`: `other` is expressed in the frame of `self`.
    pub fn compose(&self, other: &Pose) -> Pose {
        let r = &self.rotation;
        let column = |m: &[[f64; 3]; 3], j: usize| [m[0][j], m[1][j], m[2][j]];
        let rotation = r.map(|row| [0, 1, 2].map(|j| dot(row, column(&other.rotation, j))));
        let translation = [0, 1, 2].map(|i| dot(r[i], other.translation) + self.translation[i]);
        Pose { translation, rotation }
    }

    /// `[x, y, z]` and the first two rows of the rotation: 9 values.
    pub fn to_xyz_rot6d(self) -> Vec<f64> {
        [self.translation, self.rotation[0], self.rotation[1]].concat()
    }

    /// `[x, y, z]` and the rotation vector (axis times angle in radians, angle at most π): 6 values.
    pub fn to_xyz_rotvec(self) -> Vec<f64> {
        [self.translation, rotation_vector(&self.rotation)].concat()
    }
}

/// Rotation matrix to rotation vector, through the unit quaternion with `w >= 0`.
fn rotation_vector(m: &[[f64; 3]; 3]) -> [f64; 3] {
    let [mut x, mut y, mut z, mut w] = quaternion(m);
    if w < 0.0 {
        [x, y, z, w] = [-x, -y, -z, -w];
    }
    let sine = (x * x + y * y + z * z).sqrt();
    let angle = 2.0 * sine.atan2(w);
    // angle / sin(angle / 2), by its Taylor series where the quotient loses digits.
    let scale = if angle <= 1e-3 {
        let square = angle * angle;
        2.0 + square / 12.0 + 7.0 * square * square / 2880.0
    } else {
        angle / (angle / 2.0).sin()
    };
    [x * scale, y * scale, z * scale]
}

/// Unit quaternion `[x, y, z, w]`, built on the largest of the diagonal and the trace so that no
/// digits cancel; near half turns this choice also fixes the sign as SciPy does.
fn quaternion(m: &[[f64; 3]; 3]) -> [f64; 4] {
    let trace = m[0][0] + m[1][1] + m[2][2];
    let decision = [m[0][0], m[1][1], m[2][2], trace];
    let choice = (1..4).fold(0, |best, i| if decision[i] > decision[best] { i } else { best });
    let mut q = [0.0; 4];
    if choice == 3 {
        q = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1.0 + trace];
    } else {
        let (i, j, k) = (choice, (choice + 1) % 3, (choice + 2) % 3);
        q[i] = 1.0 - trace + 2.0 * m[i][i];
        q[j] = m[j][i] + m[i][j];
        q[k] = m[k][i] + m[i][k];
        q[3] = m[k][j] - m[j][k];
    }
    let norm = q.iter().map(|v| v * v).sum::<f64>().sqrt();
    q.map(|v| v / norm)
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// `None` for a vector without direction.
fn normalized(v: [f64; 3]) -> Option<[f64; 3]> {
    /// Below this length a direction is rounding noise of f32 inputs of order one.
    const MIN_LENGTH: f64 = 1e-6;
    let length = dot(v, v).sqrt();
    (length.is_finite() && length > MIN_LENGTH).then(|| v.map(|x| x / length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f64 rounding (1e-16) through about ten operations, times 10.
    const TOLERANCE: f64 = 1e-14;

    fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() <= tolerance, "{a:?} != {b:?}");
        }
    }

    /// Rodrigues' formula, independent of the code under test.
    fn from_rotvec(v: [f64; 3]) -> [[f64; 3]; 3] {
        let angle = dot(v, v).sqrt();
        if angle == 0.0 {
            return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        }
        let [x, y, z] = v.map(|c| c / angle);
        let (s, c) = angle.sin_cos();
        let t = 1.0 - c;
        [
            [t * x * x + c, t * x * y - s * z, t * x * z + s * y],
            [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
            [t * x * z - s * y, t * y * z + s * x, t * z * z + c],
        ]
    }

    #[test]
    fn rotation_vectors_survive_the_round_trip_at_every_angle() {
        let axis = normalized([1.0, -2.0, 0.5]).expect("nonzero");
        for angle in [0.0, 1e-9, 1e-4, 9e-4, 1.1e-3, 0.5, 1.5, 2.2, 3.0, 3.12] {
            let vector = axis.map(|a| a * angle);
            assert_close(&rotation_vector(&from_rotvec(vector)), &vector, 10.0 * TOLERANCE);
        }
    }

    #[test]
    fn half_turns_have_the_signs_of_scipy() {
        // scipy 1.17: Rotation.from_matrix(diag).as_rotvec()
        let pi = std::f64::consts::PI;
        let turn = |d: [f64; 3]| rotation_vector(&[[d[0], 0.0, 0.0], [0.0, d[1], 0.0], [0.0, 0.0, d[2]]]);
        assert_close(&turn([1.0, -1.0, -1.0]), &[pi, 0.0, 0.0], TOLERANCE);
        assert_close(&turn([-1.0, 1.0, -1.0]), &[0.0, pi, 0.0], TOLERANCE);
        assert_close(&turn([-1.0, -1.0, 1.0]), &[0.0, 0.0, pi], TOLERANCE);
    }

    #[test]
    fn rot6d_is_orthonormalized_and_survives_the_round_trip() {
        let scaled = [0.1, 0.2, 0.3, 2.0, 0.0, 0.0, 5.0, 0.0, 3.0];
        let pose = Pose::from_xyz_rot6d(&scaled).expect("a plane");
        assert_close(&pose.to_xyz_rot6d(), &[0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], TOLERANCE);
        assert_eq!(Pose::from_xyz_rot6d(&pose.to_xyz_rot6d()), Some(pose));
    }

    #[test]
    fn composition_applies_the_second_pose_in_the_frame_of_the_first() {
        // A quarter turn about z, then one metre along the turned x axis.
        let turn = Pose {
            translation: [1.0, 0.0, 0.0],
            rotation: from_rotvec([0.0, 0.0, 1.0].map(|v| v * 0.5 * std::f64::consts::PI)),
        };
        let step = Pose { translation: [1.0, 0.0, 0.0], rotation: from_rotvec([0.0; 3]) };
        assert_close(&turn.compose(&step).translation, &[1.0, 1.0, 0.0], TOLERANCE);
    }

    #[test]
    fn degenerate_rotations_are_refused() {
        assert!(Pose::from_xyz_rot6d(&[0.0; 9]).is_none());
        assert!(Pose::from_xyz_rot6d(&[0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 2.0, 4.0, 6.0]).is_none());
        assert!(Pose::from_xyz_rot6d(&[0.0; 6]).is_none());
    }
}
