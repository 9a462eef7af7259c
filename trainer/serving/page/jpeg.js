// Makes pixels of a JPEG's coefficients as libjpeg-turbo does, to the bit: at full size, or at a half, a quarter or an
// eighth, which a browser cannot do. And makes of pixels the coefficients that the builder's JPEG would hold.
"use strict";

const Jpeg = (() => {
  // ITU-T T.81, Annex K, row by row.
  const LUMA_TABLE = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120,
    101, 72, 92, 95, 98, 112, 100, 103, 99,
  ];
  const CHROMA_TABLE = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
    99, 99, 99, 99, ...Array(32).fill(99),
  ];
  const QUALITY = 95; // of the builder: pipeline/images/policy.py

  // --- From coefficients to samples: jidctint.c and jidctred.c of libjpeg-turbo -------------------------------------

  const work = new Int32Array(64);

  function inverse8(at, coefficients, quantum, out, to, stride) {
    for (let pass = 0; pass < 2; pass++) {
      const step = pass ? 1 : 8, shift = pass ? 18 : 11, half = 1 << (shift - 1);
      for (let line = 0; line < 8; line++) {
        const first = pass ? 8 * line : line;
        const take = (k) => (pass ? work[first + k] : coefficients[at + first + 8 * k] * quantum[first + 8 * k]);
        let z2 = take(2), z3 = take(6), z1 = (z2 + z3) * 4433;
        let t2 = z1 - z3 * 15137, t3 = z1 + z2 * 6270;
        z2 = take(0); z3 = take(4);
        let t0 = (z2 + z3) * 8192, t1 = (z2 - z3) * 8192;
        const t10 = t0 + t3 + half, t13 = t0 - t3 + half, t11 = t1 + t2 + half, t12 = t1 - t2 + half;
        t0 = take(7); t1 = take(5); t2 = take(3); t3 = take(1);
        z1 = (t0 + t3) * -7373; z2 = (t1 + t2) * -20995; z3 = t0 + t2;
        let z4 = t1 + t3;
        const z5 = (z3 + z4) * 9633;
        z3 = z3 * -16069 + z5; z4 = z4 * -3196 + z5;
        t0 = t0 * 2446 + z1 + z3; t1 = t1 * 16819 + z2 + z4; t2 = t2 * 25172 + z2 + z3; t3 = t3 * 12299 + z1 + z4;
        const target = pass ? out : work, base = pass ? to + line * stride : first, more = pass ? 128 : 0;
        target[base] = ((t10 + t3) >> shift) + more; target[base + 7 * step] = ((t10 - t3) >> shift) + more;
        target[base + step] = ((t11 + t2) >> shift) + more; target[base + 6 * step] = ((t11 - t2) >> shift) + more;
        target[base + 2 * step] = ((t12 + t1) >> shift) + more; target[base + 5 * step] = ((t12 - t1) >> shift) + more;
        target[base + 3 * step] = ((t13 + t0) >> shift) + more; target[base + 4 * step] = ((t13 - t0) >> shift) + more;
      }
    }
  }

  function inverse4(at, coefficients, quantum, out, to, stride) {
    for (let pass = 0; pass < 2; pass++) {
      const step = pass ? 1 : 8, shift = pass ? 19 : 12, half = 1 << (shift - 1);
      for (let line = 0; line < (pass ? 4 : 8); line++) {
        if (!pass && line === 4) continue;
        const first = pass ? 8 * line : line;
        const take = (k) => (pass ? work[first + k] : coefficients[at + first + 8 * k] * quantum[first + 8 * k]);
        const t0 = take(0) * 16384 + half, t2 = take(2) * 15137 - take(6) * 6270;
        const z1 = take(7), z2 = take(5), z3 = take(3), z4 = take(1);
        const odd0 = z1 * -1730 + z2 * 11893 - z3 * 17799 + z4 * 8697;
        const odd2 = z1 * -4176 - z2 * 4926 + z3 * 7373 + z4 * 20995;
        const target = pass ? out : work, base = pass ? to + line * stride : first, more = pass ? 128 : 0;
        target[base] = ((t0 + t2 + odd2) >> shift) + more; target[base + 3 * step] = ((t0 + t2 - odd2) >> shift) + more;
        target[base + step] = ((t0 - t2 + odd0) >> shift) + more;
        target[base + 2 * step] = ((t0 - t2 - odd0) >> shift) + more;
      }
    }
  }

  function inverse2(at, coefficients, quantum, out, to, stride) {
    for (let pass = 0; pass < 2; pass++) {
      const step = pass ? 1 : 8, shift = pass ? 20 : 13, half = 1 << (shift - 1);
      for (const line of pass ? [0, 1] : [0, 1, 3, 5, 7]) {
        const first = pass ? 8 * line : line;
        const take = (k) => (pass ? work[first + k] : coefficients[at + first + 8 * k] * quantum[first + 8 * k]);
        const even = take(0) * 32768 + half;
        const odd = take(7) * -5906 + take(5) * 6967 - take(3) * 10426 + take(1) * 29692;
        const target = pass ? out : work, base = pass ? to + line * stride : first, more = pass ? 128 : 0;
        target[base] = ((even + odd) >> shift) + more; target[base + step] = ((even - odd) >> shift) + more;
      }
    }
  }

  function inverse1(at, coefficients, quantum, out, to) { out[to] = ((coefficients[at] * quantum[0] + 4) >> 3) + 128; }

  const INVERSE = { 8: inverse8, 4: inverse4, 2: inverse2, 1: inverse1 };

  /** Makes the samples of a component, each block `size` a side. */
  function samplesOf(one, size) {
    const stride = one.across * size, samples = new Uint8ClampedArray(stride * one.down * size);
    for (let y = 0; y < one.down; y++) {
      for (let x = 0; x < one.across; x++) {
        const at = 64 * (y * one.stride + x);
        INVERSE[size](at, one.coefficients, one.quantum, samples, y * size * stride + x * size, stride);
      }
    }
    return { samples, stride };
  }

  // --- Colours that are stored at less than full size: jdsample.c --------------------------------------------------

  /** Doubles the columns of a row of `width` samples: each becomes two, of it and a part of a neighbour. */
  function widened(row, width, out, to, [one, more, shift, before, behind]) {
    for (let x = 0; x < width; x++) {
      const here = row[x], left = x ? row[x - 1] : here, right = x < width - 1 ? row[x + 1] : here;
      out[to + 2 * x] = (here * one + left * more + before) >> shift;
      out[to + 2 * x + 1] = (here * one + right * more + behind) >> shift;
    }
  }

  /** Brings a plane to full size as libjpeg does, which smooths where a side is doubled. */
  function upsampled({ samples, stride }, width, height, across, down, smooth) {
    if (across === 1 && down === 1) return { samples, stride };
    const out = new Uint8ClampedArray(width * across * height * down), wide = width * across;
    const row = new Int32Array(width);
    const fancy = smooth && across <= 2 && down <= 2 && (across === 1 || width > 2);
    for (let y = 0; y < height * down; y++) {
      const own = Math.floor(y / down), here = own * stride;
      if (!fancy) {
        for (let x = 0; x < wide; x++) out[y * wide + x] = samples[here + Math.floor(x / across)];
        continue;
      }
      const other = Math.min(Math.max(own + (y % 2 ? 1 : -1), 0), height - 1) * stride;
      for (let x = 0; x < width; x++) {
        row[x] = down === 1 ? samples[here + x] : 3 * samples[here + x] + samples[other + x];
      }
      if (across === 1) for (let x = 0; x < width; x++) out[y * wide + x] = (row[x] + (y % 2 ? 2 : 1)) >> 2;
      else widened(row, width, out, y * wide, down === 1 ? [3, 1, 2, 1, 2] : [3, 1, 4, 8, 7]);
    }
    return { samples: out, stride: wide };
  }

  // --- Pixels ------------------------------------------------------------------------------------------------------

  /** Decodes a frame, reduced by 1, 2, 4 or 8; its colours as RGB, three bytes a pixel. */
  function decode(frame, ratio) {
    const size = 8 / ratio;
    const width = Math.ceil(frame.width / ratio), height = Math.ceil(frame.height / ratio);
    const planes = frame.components.map((one) => {
      const divides = (own) => (frame.maxH * size) % (one.h * own) === 0 && (frame.maxV * size) % (one.v * own) === 0;
      let own = size; // colours that are stored small are reduced less in place of being enlarged again
      while (own < 8 && divides(2 * own)) own *= 2;
      const across = (frame.maxH * size) / (one.h * own), down = (frame.maxV * size) / (one.v * own);
      if (across % 1 || down % 1) throw new Error("a JPEG with colours sampled like this is not supported");
      const stored = [frame.width * one.h / frame.maxH, frame.height * one.v / frame.maxV];
      const [columns, rows] = stored.map((side) => Math.ceil((side * own) / 8));
      return upsampled(samplesOf(one, own), columns, rows, across, down, size > 1);
    });
    const pixels = new Uint8ClampedArray(3 * width * height), paint = PAINT[frame.colours];
    const [first, second, third, fourth] = planes;
    for (let y = 0, to = 0; y < height; y++) {
      const rows = planes.map(({ stride }) => y * stride);
      for (let x = 0; x < width; x++, to += 3) {
        const a = first.samples[rows[0] + x];
        if (!second) { pixels[to] = pixels[to + 1] = pixels[to + 2] = a; continue; }
        paint(pixels, to, a, second.samples[rows[1] + x], third.samples[rows[2] + x], fourth?.samples[rows[3] + x]);
      }
    }
    return { pixels, width, height };
  }

  function fromYcc(out, to, y, cb, cr) {
    cb -= 128; cr -= 128;
    out[to] = y + ((91881 * cr + 32768) >> 16);
    out[to + 1] = y + ((-22554 * cb - 46802 * cr + 32768) >> 16);
    out[to + 2] = y + ((116130 * cb + 32768) >> 16);
  }

  /** Lays inks, stored inverted as all programs do, over white as Pillow does. */
  function fromCmyk(out, to, c, m, y, k) {
    [c, m, y].forEach((ink, i) => {
      const product = (255 - ink) * k + 128;
      out[to + i] = k - ((product + (product >> 8)) >> 8);
    });
  }

  const PAINT = {
    rgb: (out, to, r, g, b) => out.set([r, g, b], to),
    ycc: fromYcc,
    cmyk: fromCmyk,
    ycck: (out, to, y, cb, cr, k) => {
      fromYcc(out, to, y, cb, cr);
      fromCmyk(out, to, 255 - out[to], 255 - out[to + 1], 255 - out[to + 2], k);
    },
  };

  // --- What a JPEG would give back: jccolor.c, jcsample.c, jfdctint.c -----------------------------------------------

  function forward8(block) {
    for (let pass = 0; pass < 2; pass++) {
      const step = pass ? 8 : 1, shift = pass ? 15 : 11, half = 1 << (shift - 1);
      for (let line = 0; line < 8; line++) {
        const at = pass ? line : 8 * line;
        const sum = (k) => block[at + k * step] + block[at + (7 - k) * step];
        const less = (k) => block[at + k * step] - block[at + (7 - k) * step];
        const t10 = sum(0) + sum(3), t13 = sum(0) - sum(3), t11 = sum(1) + sum(2), t12 = sum(1) - sum(2);
        let t7 = less(0), t6 = less(1), t5 = less(2), t4 = less(3);
        block[at] = pass ? (t10 + t11 + 2) >> 2 : (t10 + t11) * 4;
        block[at + 4 * step] = pass ? (t10 - t11 + 2) >> 2 : (t10 - t11) * 4;
        let z1 = (t12 + t13) * 4433;
        block[at + 2 * step] = (z1 + t13 * 6270 + half) >> shift;
        block[at + 6 * step] = (z1 - t12 * 15137 + half) >> shift;
        const z5 = (t4 + t6 + t5 + t7) * 9633;
        const z2 = (t5 + t6) * -20995, z3 = (t4 + t6) * -16069 + z5, z4 = (t5 + t7) * -3196 + z5;
        z1 = (t4 + t7) * -7373;
        block[at + 7 * step] = (t4 * 2446 + z1 + z3 + half) >> shift;
        block[at + 5 * step] = (t5 * 16819 + z2 + z4 + half) >> shift;
        block[at + 3 * step] = (t6 * 25172 + z2 + z3 + half) >> shift;
        block[at + step] = (t7 * 12299 + z1 + z4 + half) >> shift;
      }
    }
  }

  /** Fills a component's coefficients from its plane, whose last row and column go on beyond its edges. */
  function transform(one, { samples, width, height }) {
    const block = new Int32Array(64);
    for (let by = 0; by < one.down; by++) {
      for (let bx = 0; bx < one.across; bx++) {
        for (let k = 0; k < 64; k++) {
          const y = Math.min(8 * by + (k >> 3), height - 1), x = Math.min(8 * bx + (k & 7), width - 1);
          block[k] = samples[y * width + x] - 128;
        }
        forward8(block);
        const at = 64 * (by * one.stride + bx);
        for (let k = 0; k < 64; k++) {
          const quantum = 8 * one.quantum[k], size = Math.floor((Math.abs(block[k]) + (quantum >> 1)) / quantum);
          one.coefficients[at + k] = block[k] < 0 ? -size : size;
        }
      }
    }
  }

  /** Averages squares of four; what is left over rounds up and down in turn. */
  function halved({ samples, width, height }) {
    const across = 8 * Math.ceil(width / 16), down = Math.ceil(height / 2);
    const out = new Uint8ClampedArray(across * down);
    for (let y = 0; y < down; y++) {
      const upper = 2 * y * width, lower = Math.min(2 * y + 1, height - 1) * width;
      for (let x = 0; x < across; x++) {
        const left = Math.min(2 * x, width - 1), right = Math.min(2 * x + 1, width - 1);
        const sum = samples[upper + left] + samples[upper + right] + samples[lower + left] + samples[lower + right];
        out[y * across + x] = (sum + 1 + (x & 1)) >> 2;
      }
    }
    return { samples: out, width: across, height: down };
  }

  /** Makes the frame of the JPEG that the builder would write of RGB pixels, three bytes each. */
  function encode({ pixels, width, height }) {
    const planes = [0, 1, 2].map(() => ({ samples: new Uint8ClampedArray(width * height), width, height }));
    const offset = (128 << 16) + 32767;
    for (let i = 0; i < width * height; i++) {
      const r = pixels[3 * i], g = pixels[3 * i + 1], b = pixels[3 * i + 2];
      planes[0].samples[i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
      planes[1].samples[i] = (-11059 * r - 21709 * g + 32768 * b + offset) >> 16;
      planes[2].samples[i] = (32768 * r - 27439 * g - 5329 * b + offset) >> 16;
    }
    const scale = 200 - 2 * QUALITY;
    const quantum = (table) => table.map((one) => Math.min(Math.max(Math.floor((one * scale + 50) / 100), 1), 255));
    const frame = Coded.laidOut({
      width, height, colours: "ycc", orientation: 1,
      components: [2, 1, 1].map((side, i) => ({ h: side, v: side, quantum: quantum(i ? CHROMA_TABLE : LUMA_TABLE) })),
    });
    frame.components.forEach((one, i) => transform(one, i ? halved(planes[i]) : planes[i]));
    return frame;
  }

  return { decode, encode };
})();
