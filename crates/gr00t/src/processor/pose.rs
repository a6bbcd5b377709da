//! End effector poses: rotation formats and composition, in f64.
//!
//! Source: the official `gr00t/data/state_action/pose.py`. Its 6-d rotation is the first two
//! ROWS of the rotation matrix; its rotation vector is SciPy's, and a matrix becomes a rotation as in SciPy.

use super::config::ActionFormat;

/// A rigid transformation: `x ↦ rotation · x + translation`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    /// Metres.
    pub translation: [f64; 3],
    /// Orthonormal, row-major.
    pub rotation: [[f64; 3]; 3],
}

impl ActionFormat {
    /// Values of a pose in this format.
    pub(super) fn pose_dim(self) -> usize {
        match self {
            ActionFormat::Default => 16,
            ActionFormat::XyzRot6d => 9,
            ActionFormat::XyzRotvec => 6,
        }
    }

    /// How a pose is written in this format.
    pub(super) fn pose_name(self) -> &'static str {
        match self {
            ActionFormat::Default => "4 x 4 matrix",
            ActionFormat::XyzRot6d => "xyz + rot6d",
            ActionFormat::XyzRotvec => "xyz + rotation vector",
        }
    }
}

impl Pose {
    /// From the values of a format.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(format: ActionFormat, values: &[f64]) -> Result<Self, &'static str> {
        match format {
            ActionFormat::Default => Pose::from_matrix(values).ok_or("the matrix is none of a rotation"),
            ActionFormat::XyzRot6d => {
                Pose::from_xyz_rot6d(values).ok_or("the two rows of the rotation do not span a plane")
            }
            ActionFormat::XyzRotvec => Pose::from_xyz_rotvec(values).ok_or("expected six finite values"),
        }
    }

    /// The values of a format.
    pub fn write(self, format: ActionFormat) -> Vec<f64> {
        match format {
            ActionFormat::Default => self.to_matrix(),
            ActionFormat::XyzRot6d => self.to_xyz_rot6d(),
            ActionFormat::XyzRotvec => self.to_xyz_rotvec(),
        }
    }

    /// From a row-major 4 x 4 matrix, whose last row is not looked at. `None` where it has no nearest rotation, or when
    /// there are not 16 values.
    fn from_matrix(values: &[f64]) -> Option<Self> {
        let &[a, b, c, x, d, e, f, y, g, h, i, z, _, _, _, _] = values else { return None };
        let rotation = nearest_rotation([[a, b, c], [d, e, f], [g, h, i]])?;
        Some(Pose { translation: [x, y, z], rotation })
    }

    /// From `[x, y, z]` and a rotation vector. `None` for one that is not finite, or when there are not 6 values.
    fn from_xyz_rotvec(values: &[f64]) -> Option<Self> {
        let &[x, y, z, a, b, c] = values else { return None };
        let angle = dot([a, b, c], [a, b, c]).sqrt();
        // sin(angle / 2) / angle, by its Taylor series where the quotient loses digits.
        let scale = if angle <= 1e-3 {
            let square = angle * angle;
            0.5 - square / 48.0 + square * square / 3840.0
        } else {
            (angle / 2.0).sin() / angle
        };
        let rotation = from_quaternion([a * scale, b * scale, c * scale, (angle / 2.0).cos()]);
        angle.is_finite().then_some(Pose { translation: [x, y, z], rotation })
    }

    /// From `[x, y, z, r00, r01, r02, r10, r11, r12]`, the two rows made orthonormal by Gram-Schmidt.
    /// `None` when the rows do not span a plane, or when there are not 9 values.
    fn from_xyz_rot6d(values: &[f64]) -> Option<Self> {
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

    /// The transformation back: `self.inverse().compose(&self)` leaves everything where it is.
    pub fn inverse(&self) -> Pose {
        let r = &self.rotation;
        let rotation = [0, 1, 2].map(|i| [0, 1, 2].map(|j| r[j][i]));
        let translation = rotation.map(|row| -dot(row, self.translation));
        Pose { translation, rotation }
    }

    /// The row-major 4 x 4 matrix.
    fn to_matrix(self) -> Vec<f64> {
        let ([x, y, z], [p, q, r]) = (self.translation, self.rotation);
        [[p[0], p[1], p[2], x], [q[0], q[1], q[2], y], [r[0], r[1], r[2], z], [0.0, 0.0, 0.0, 1.0]].concat()
    }

    /// `[x, y, z]` and the first two rows of the rotation: 9 values.
    fn to_xyz_rot6d(self) -> Vec<f64> {
        [self.translation, self.rotation[0], self.rotation[1]].concat()
    }

    /// `[x, y, z]` and the rotation vector (axis times angle in radians, angle at most π): 6 values.
    fn to_xyz_rotvec(self) -> Vec<f64> {
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

/// The rotation nearest to a matrix, which SciPy takes from its singular vectors: here the limit of averaging it with
/// its inverse's transpose (Newton's iteration for the polar decomposition; Higham, 1986). `None` for a mirrored or flat
/// matrix.
fn nearest_rotation(mut m: [[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    /// Random matrices take up to 13 steps, nearly flat ones one more for each factor of two.
    const MAX_STEPS: usize = 64;
    for _ in 0..MAX_STEPS {
        let cofactors = [cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1])];
        let determinant = dot(m[0], cofactors[0]);
        if !(determinant.is_finite() && determinant > 0.0) {
            return None;
        }
        let last = m;
        m = [0, 1, 2].map(|i| [0, 1, 2].map(|j| 0.5 * (last[i][j] + cofactors[i][j] / determinant)));
        let pairs = m.as_flattened().iter().zip(last.as_flattened());
        if pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) <= 1e-15 {
            return Some(m);
        }
    }
    None
}

/// The rotation matrix of a unit quaternion `[x, y, z, w]`.
fn from_quaternion([x, y, z, w]: [f64; 4]) -> [[f64; 3]; 3] {
    [
        [x * x - y * y - z * z + w * w, 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), -x * x + y * y - z * z + w * w, 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), -x * x - y * y + z * z + w * w],
    ]
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
    fn every_format_survives_the_round_trip() {
        let axis = normalized([1.0, -2.0, 0.5]).expect("nonzero");
        for angle in [0.0, 1e-9, 9e-4, 1.1e-3, 0.5, 2.2, 3.12] {
            let rotation = from_rotvec(axis.map(|a| a * angle));
            let pose = Pose { translation: [0.1, -0.2, 0.3], rotation };
            for format in [ActionFormat::Default, ActionFormat::XyzRot6d, ActionFormat::XyzRotvec] {
                let values = pose.write(format);
                assert_eq!(values.len(), format.pose_dim());
                let read = Pose::read(format, &values).expect("a pose");
                assert_close(&read.to_matrix(), &pose.to_matrix(), TOLERANCE);
                let back = pose.inverse().compose(&read);
                assert_close(&back.translation, &[0.0; 3], TOLERANCE);
                assert_close(back.rotation.as_flattened(), from_rotvec([0.0; 3]).as_flattened(), TOLERANCE);
            }
        }
    }

    #[test]
    fn a_matrix_is_made_a_rotation() {
        // scipy 1.15.3: Rotation.from_matrix(matrix).as_matrix()
        let matrix = [-0.7, 0.1, 0.6, 5.0, 0.2, -0.9, 0.3, 6.0, 0.55, 0.25, 0.75, 7.0, 9.0, 9.0, 9.0, 9.0];
        let expected = [
            [-0.7834241913039368, 0.06299513630607755, 0.6182864621529013],
            [0.14810353392522346, -0.9472647245174515, 0.28417403984835854],
            [0.6035825376190339, 0.3141992273807417, 0.7327802984487998],
        ];
        let pose = Pose::read(ActionFormat::Default, &matrix).expect("a rotation");
        assert_close(pose.rotation.as_flattened(), expected.as_flattened(), TOLERANCE);
        assert_eq!(pose.translation, [5.0, 6.0, 7.0]);
        let scaled = [2.0, 0.0, 0.0, 5.0, 0.0, 0.0, -2.0, 6.0, 0.0, 2.0, 0.0, 7.0, 9.0, 9.0, 9.0, 9.0];
        let turn = Pose::read(ActionFormat::Default, &scaled).expect("a rotation").rotation;
        assert_close(turn.as_flattened(), &[1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0], TOLERANCE);
        let mut mirrored = scaled;
        mirrored[0] = -2.0;
        assert!(Pose::read(ActionFormat::Default, &mirrored).is_err());
        assert!(Pose::read(ActionFormat::Default, &[0.0; 16]).is_err());
        assert!(Pose::read(ActionFormat::Default, &scaled[1..]).is_err());
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
