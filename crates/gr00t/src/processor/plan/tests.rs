//! A plan, followed byte by byte as the module's table and the kernels of the CUDA engine say, gives the processor's pixels.

use super::super::pattern;
use super::*;
use crate::Version;

/// What a processor asks of its images.
struct Asked {
    version: Version,
    albumentations: bool,
    edge: usize,
    fraction: f64,
    crop: [usize; 2],
    target: [usize; 2],
    bars: bool,
}

impl Asked {
    fn config(&self) -> ProcessorConfig {
        ProcessorConfig {
            use_albumentations: self.albumentations,
            shortest_image_edge: Some(self.edge),
            crop_fraction: Some(self.fraction),
            image_crop_size: Some(self.crop.to_vec()),
            image_target_size: Some(self.target.to_vec()),
            letter_box_transform: Some(self.bars),
            ..ProcessorConfig::defaults(self.version)
        }
    }
}

/// Both transforms of both versions, with bars and without; crops of a part, of everything, and of more than there is.
fn asked() -> Vec<Asked> {
    let mut all = Vec::new();
    for version in [Version::N1_6, Version::N1_7] {
        for bars in [false, true] {
            for (edge, fraction) in [(256, 0.95), (64, 0.88), (224, 1.0)] {
                let (crop, target) = ([1, 1], [1, 1]);
                all.push(Asked { version, albumentations: true, edge, fraction, crop, target, bars });
            }
            for (crop, target) in [([244, 244], [256, 256]), ([200, 333], [224, 120]), ([96, 97], [96, 97])] {
                let (edge, fraction) = (1, 1.0);
                all.push(Asked { version, albumentations: false, edge, fraction, crop, target, bars });
            }
        }
    }
    all
}

/// Width and height: ratios that are whole on both axes, on one and on none, larger and smaller than the targets.
const FRAMES: [Size; 11] = [
    (640, 480),
    (480, 640),
    (256, 256),
    (512, 512),
    (768, 256),
    (321, 105),
    (224, 224),
    (427, 239),
    (64, 64),
    (57, 31),
    (1280, 720),
];

#[test]
fn plans_give_the_processors_bytes() {
    let mut used = Vec::new();
    for (asked, frame) in asked().iter().flat_map(|asked| FRAMES.map(|frame| (asked, frame))) {
        let images = Images::new(&asked.config(), Path::new("made up")).expect("a transform");
        let image = pattern::image(frame.0, frame.1);
        let mut expected = PixelValues::default();
        images.apply_into("a frame", &image, &mut expected).expect("a frame");
        let raw = RawImage::of(Arc::new(image), &asked.config()).expect("a plan");
        let (image, plan) = (raw.frame(), raw.plan());
        let followed = follow(plan, image);
        assert_eq!((plan.frame(), plan.size()), ([frame.1, frame.0], [expected.height, expected.width]));
        assert!(followed == expected, "{images:?}: {frame:?}");
        assert!(raw.pixels() == expected, "{images:?}: {frame:?}");
        used.extend(plan.steps().iter().map(|step| step.filter));
    }
    for filter in Filter::ALL {
        assert!(used.contains(&filter), "{filter:?}: not tried");
    }
}

fn follow(plan: &ImagePlan, frame: &Image) -> PixelValues {
    let mut image = frame.clone();
    for step in plan.steps() {
        let (width, height) = (step.x.len(), step.y.len());
        let mut rgb = Vec::with_capacity(width * height * 3);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            rgb.extend([0, 1, 2].map(|channel| Place { step, source: &image, x, y, channel }.byte()));
        }
        image = Image { width, height, rgb: rgb.into() };
    }
    let value = |(channel, pixel): (usize, &[u8])| (f32::from(pixel[channel]) - 127.5) / 127.5;
    let planes = (0..3).flat_map(|channel| image.rgb.chunks_exact(3).map(move |pixel| (channel, pixel)));
    PixelValues { height: image.height, width: image.width, data: planes.map(value).collect() }
}

/// A byte of a step's result.
struct Place<'a> {
    step: &'a Resample,
    source: &'a Image,
    x: usize,
    y: usize,
    channel: usize,
}

impl Place<'_> {
    /// The pixel under a tap of the windows along both axes.
    fn under(&self, along_x: usize, along_y: usize) -> i32 {
        let place = |windows: &Windows, at: usize, tap: usize, origin: i32| {
            (windows.firsts[at] + tap as u32).min(windows.last) as i32 + origin
        };
        let Resample { origin: [left, top], x, y, .. } = self.step;
        let (column, row) = (place(x, self.x, along_x, *left), place(y, self.y, along_y, *top));
        let Image { width, height, rgb } = self.source;
        let inside = (0..*width as i32).contains(&column) && (0..*height as i32).contains(&row);
        if inside { rgb[(row as usize * width + column as usize) * 3 + self.channel].into() } else { 0 }
    }

    fn byte(&self) -> u8 {
        let Resample { x, y, filter, .. } = self.step;
        let weight = |windows: &Windows, at: usize, tap: usize| windows.weights[at * windows.taps + tap];
        let (wx, wy) = (|tap| weight(x, self.x, tap), |tap| weight(y, self.y, tap));
        let nearest = |value: f32| value.round_ties_even().clamp(0.0, 255.0) as u8;
        let (columns, rows) = (0..x.taps, 0..y.taps);
        match filter {
            Filter::Separable => {
                let to_byte = |sum: i32, precision: u32| (sum >> precision).clamp(0, 255);
                let mut sum = 1 << (y.precision - 1);
                for row in rows {
                    let products = columns.clone().map(|column| self.under(column, row) * wx(column));
                    let along_x = products.fold(1 << (x.precision - 1), |sum, product| sum + product);
                    sum += to_byte(along_x, x.precision) * wy(row);
                }
                to_byte(sum, y.precision) as u8
            }
            Filter::Area => {
                let share = |bits: i32| f32::from_bits(bits as u32);
                let mut sum = 0.0;
                for row in rows {
                    let pixel = |column| self.under(column, row) as f32 * share(wx(column));
                    sum += share(wy(row)) * columns.clone().map(pixel).fold(0.0, |sum, value| sum + value);
                }
                nearest(sum)
            }
            Filter::BlockMeans => {
                let row = |row| columns.clone().map(move |column| self.under(column, row)).sum::<i32>();
                let sum: i32 = rows.map(row).sum();
                match (x.taps, y.taps) {
                    (2, 2) => ((sum + 2) >> 2) as u8,
                    (columns, rows) => nearest(sum as f32 * (1.0 / (columns * rows) as f32)),
                }
            }
            Filter::Linear => {
                let blended = |row| (self.under(0, row) * wx(0) + self.under(1, row) * wx(1)) >> 4;
                let high = |row| (wy(row) * blended(row)) >> 16;
                ((high(0) + high(1) + 2) >> 2) as u8
            }
        }
    }
}
