// Makes of an image file what the model takes: pipeline/images/model_pixels.py, of what the dataset's builder would have made
// of the file. JPEGs that stand upright stay as they are; all else becomes a JPEG first, as in the dataset.
"use strict";

const Pixels = (() => {
  const FILL = 127; // grey, beside an image that is padded
  const MOST_PIXELS = 50e6, LEAST_SIDE = 8; // of the builder: pipeline/images/policy.py
  const float = Math.fround;

  /** Counts source pixels per output pixel, of the axis that has fewer; where it pads, of the one that has more. */
  function factorOf({ height, width }, spec) {
    const sides = [float(height / spec.height), float(width / spec.width)];
    return spec.resize === "pad" ? Math.max(...sides) : float(Math.min(...sides) * float(spec.eval_centre || 1));
  }

  const ratioOf = (size, spec) => [8, 4, 2].find((ratio) => factorOf(size, spec) >= ratio) ?? 1;

  /** Rounds as NumPy does: halves to even. */
  function rounded(value) {
    const below = Math.floor(value);
    return value - below === 0.5 ? below + (below % 2) : Math.round(value);
  }

  function placesOf(source, output) {
    const step = float(source / output);
    return Array.from({ length: output }, (_, i) => {
      const at = float(float(float(i + 0.5) * step) - 0.5), floor = Math.floor(at);
      return { low: Math.max(floor, 0), high: Math.min(Math.ceil(at), source - 1), share: float(at - floor) };
    });
  }

  /** Resizes a part of an image bilinearly, with half-pixel centres: columns first. */
  function resized({ pixels, width }, [top, left, rows, columns], [height, across]) {
    const narrow = new Float32Array(rows * across * 3), result = new Float32Array(height * across * 3);
    placesOf(columns, across).forEach(({ low, high, share }, x) => {
      for (let y = 0; y < rows; y++) {
        const row = ((top + y) * width + left) * 3;
        for (let c = 0; c < 3; c++) {
          const here = pixels[row + 3 * low + c], there = pixels[row + 3 * high + c];
          narrow[(y * across + x) * 3 + c] = here + (there - here) * share;
        }
      }
    });
    placesOf(rows, height).forEach(({ low, high, share }, y) => {
      for (let i = 0; i < across * 3; i++) {
        const here = narrow[low * across * 3 + i], there = narrow[high * across * 3 + i];
        result[y * across * 3 + i] = here + (there - here) * share;
      }
    });
    return result;
  }

  /** Resizes what the model sees of an image. */
  function view(image, spec) {
    const shape = [image.height, image.width], output = [spec.height, spec.width];
    if (spec.resize === "stretch" && !spec.eval_centre) return resized(image, [0, 0, ...shape], output);
    const factor = factorOf(image, spec);
    const size = output.map((side) => rounded(float(side * factor)));
    if (spec.resize !== "pad") {
      const [rows, columns] = size.map((side, axis) => Math.min(Math.max(side, 1), shape[axis]));
      return resized(image, [(shape[0] - rows) >> 1, (shape[1] - columns) >> 1, rows, columns], output);
    }
    const [down, across] = output.map((side, axis) => {
      const whole = Math.max(size[axis], shape[axis]);
      const beside = Math.floor(((whole - shape[axis]) * side + whole) / (2 * whole)); // output pixels, rounded
      const first = Math.min(beside, side - 1);
      return [first, Math.min(Math.max(side - beside, first + 1), side)];
    });
    const inner = resized(image, [0, 0, ...shape], [down[1] - down[0], across[1] - across[0]]);
    const result = new Float32Array(spec.height * spec.width * 3).fill(FILL), row = 3 * (across[1] - across[0]);
    for (let y = down[0]; y < down[1]; y++) {
      result.set(inner.subarray((y - down[0]) * row, (y - down[0] + 1) * row), (y * spec.width + across[0]) * 3);
    }
    return result;
  }

  /** Turns pixels as EXIF's orientation, 1 to 8, says. */
  function upright({ pixels, width, height }, orientation) {
    if (orientation === 1) return { pixels, width, height };
    const [across, down] = orientation >= 5 ? [height, width] : [width, height];
    const result = new Uint8ClampedArray(pixels.length);
    const right = width - 1, bottom = height - 1;
    const source = [
      null, null, (x, y) => [right - x, y], (x, y) => [right - x, bottom - y], (x, y) => [x, bottom - y],
      (x, y) => [y, x], (x, y) => [y, bottom - x], (x, y) => [right - y, bottom - x], (x, y) => [right - y, x],
    ][orientation];
    for (let y = 0, to = 0; y < down; y++) {
      for (let x = 0; x < across; x++, to += 3) {
        const [column, row] = source(x, y), at = 3 * (row * width + column);
        result[to] = pixels[at]; result[to + 1] = pixels[at + 1]; result[to + 2] = pixels[at + 2];
      }
    }
    return { pixels: result, width: across, height: down };
  }

  function check({ width, height }) {
    const size = `${width}×${height} pixels`;
    if (width * height > MOST_PIXELS) throw new Error(`${size} are too many, 50 million at most`);
    if (Math.min(width, height) < LEAST_SIDE) throw new Error(`${size} are too few, 8 a side at least`);
  }

  /** Lets the browser decode what is no JPEG: numbers as stored, upright, transparency over white. */
  async function drawn(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
    } catch {
      throw new Error("this browser cannot read it as an image");
    }
    const { width, height } = bitmap;
    check(bitmap);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const { data } = context.getImageData(0, 0, width, height), pixels = new Uint8ClampedArray(3 * width * height);
    let seen = 0;
    for (let from = 0, to = 0; from < data.length; from += 4) {
      const alpha = data[from + 3], white = 255 * (255 - alpha);
      for (let c = 0; c < 3; c++) pixels[to++] = Math.round((data[from + c] * alpha + white) / 255);
      seen |= alpha;
    }
    // The builder takes its colours then, which a canvas does not keep.
    if (!seen) throw new Error("it is transparent everywhere");
    return { pixels, width, height };
  }

  /** Takes the orientation out of a WebP file: some browsers turn it and some do not. Returns it; 1 of other files. */
  function takenFromWebp(data) {
    if (Coded.textAt(data, 0, 4) !== "RIFF" || Coded.textAt(data, 8, 4) !== "WEBP") return 1;
    const view = new DataView(data.buffer);
    for (let at = 12; at + 8 <= data.length; ) {
      const size = view.getUint32(at + 4, true), start = at + 8;
      if (Coded.textAt(data, at, 4) === "EXIF") {
        const found = Coded.exifOrientation(data, start, Math.min(start + size, data.length));
        data.fill(0x20, at, at + 4); // a chunk that nobody knows
        return found || 1;
      }
      at = start + size + (size & 1);
    }
    return 1;
  }

  /** Returns what the model takes of a JPEG's bytes. */
  function ofJpeg(data, spec) {
    let frame = Coded.read(data);
    check(frame);
    if (frame.orientation !== 1 || frame.components.length > 3) {
      frame = Jpeg.encode(upright(Jpeg.decode(frame, 1), frame.orientation));
    }
    return view(Jpeg.decode(frame, ratioOf(frame, spec)), spec);
  }

  /** Returns what the model takes of RGB pixels, three bytes each. */
  function ofPixels(image, spec) {
    return view(Jpeg.decode(Jpeg.encode(image), ratioOf(image, spec)), spec);
  }

  /** Returns what the model takes of an image file: float32, height × width × RGB, 0 to 255. */
  async function ofFile(file, spec) {
    const data = new Uint8Array(await file.arrayBuffer());
    if (data[0] === 0xff && data[1] === 0xd8 && data[2] === 0xff) return ofJpeg(data, spec);
    const orientation = takenFromWebp(data);
    return ofPixels(upright(await drawn(new Blob([data])), orientation), spec);
  }

  return { ofFile, ofJpeg, ofPixels };
})();
