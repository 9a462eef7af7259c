// Reads a JPEG file, baseline or progressive, into its coefficients, of which jpeg.js makes pixels.
"use strict";

const Coded = (() => {
  const ZIGZAG = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61,
    54, 47, 55, 62, 63,
  ];

  // --- What a file holds -------------------------------------------------------------------------------------------

  const textAt = (data, at, length) => String.fromCharCode(...data.subarray(at, at + length));
  const word = (data, at) => (data[at] << 8) | data[at + 1];

  /** Reads the orientation, 1 to 8, that an APP1 segment's body holds as EXIF or XMP; 0 where it holds none. */
  function orientationOf(data, at, end) {
    if (textAt(data, at, 6) === "Exif\0\0") return exifOrientation(data, at + 6, end);
    const found = /tiff:Orientation(?:="|>)([1-8])/.exec(new TextDecoder("latin1").decode(data.subarray(at, end)));
    return found ? Number(found[1]) : 0;
  }

  function exifOrientation(data, at, end) {
    try {
      const view = new DataView(data.buffer, data.byteOffset + at, end - at);
      const little = view.getUint16(0) === 0x4949;
      const first = view.getUint32(4, little);
      for (let entry = 0; entry < view.getUint16(first, little); entry++) {
        const place = first + 2 + 12 * entry;
        const value = view.getUint16(place + 8, little);
        if (view.getUint16(place, little) === 0x0112) return value >= 1 && value <= 8 ? value : 1;
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // damaged metadata turn nothing
    }
    return 0;
  }

  /** Adds what libjpeg derives of a frame: where the blocks of each component lie. */
  function laidOut(frame) {
    frame.maxH = Math.max(...frame.components.map((one) => one.h));
    frame.maxV = Math.max(...frame.components.map((one) => one.v));
    frame.mcusAcross = Math.ceil(frame.width / (8 * frame.maxH));
    frame.mcusDown = Math.ceil(frame.height / (8 * frame.maxV));
    for (const one of frame.components) {
      one.across = Math.ceil(Math.ceil((frame.width * one.h) / frame.maxH) / 8);
      one.down = Math.ceil(Math.ceil((frame.height * one.v) / frame.maxV) / 8);
      one.stride = frame.mcusAcross * one.h; // blocks a row
      one.coefficients = new Int16Array(64 * one.stride * frame.mcusDown * one.v);
    }
    return frame;
  }

  function readFrame(data, at, progressive) {
    const count = data[at + 5];
    const frame = { height: word(data, at + 1), width: word(data, at + 3), progressive, components: [] };
    if (data[at] !== 8) throw new Error(`a JPEG of ${data[at]} bits a sample is not supported`);
    if (!frame.height || !frame.width) throw new Error("this JPEG does not say its size");
    if (![1, 3, 4].includes(count)) throw new Error(`a JPEG of ${count} components is not supported`);
    for (let place = at + 6; frame.components.length < count; place += 3) {
      const [id, sampling, table] = data.subarray(place, place + 3);
      frame.components.push({ id, h: sampling >> 4, v: sampling & 15, table, predicted: 0 });
    }
    return frame;
  }

  function readTables(data, at, end, tables) {
    while (at < end) {
      const wide = data[at] >> 4;
      const table = (tables[data[at++] & 15] = new Int32Array(64));
      for (let k = 0; k < 64; k++, at += wide ? 2 : 1) table[ZIGZAG[k]] = wide ? word(data, at) : data[at];
    }
  }

  /** Reads Huffman tables, each into 2^16 entries: the length of the code that 16 bits begin with, and its symbol. */
  function readCodes(data, at, end, codes) {
    while (at < end) {
      const kind = data[at++];
      const counts = data.subarray(at, at + 16);
      const lookup = (codes[kind] = new Uint16Array(1 << 16));
      at += 16;
      let first = 0;
      for (let length = 1; length <= 16; length++) {
        for (let i = 0; i < counts[length - 1]; i++, first += 1 << (16 - length)) {
          lookup.fill((length << 8) | data[at++], first, first + (1 << (16 - length)));
        }
      }
    }
  }

  /** Reads a whole file: its size, colours, orientation and coefficients. */
  function read(data) {
    const tables = [], codes = [];
    let frame = null, restart = 0, adobe = -1, jfif = false, orientation = 0, scanned = false;
    for (let at = 2; at + 1 < data.length; ) {
      if (data[at] !== 0xff || data[at + 1] === 0xff || data[at + 1] === 0) { at++; continue; }
      const marker = data[at + 1];
      if (marker === 0xd9) break;
      if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) { at += 2; continue; }
      const body = at + 4, end = at + 2 + word(data, at + 2);
      at = end;
      if (marker === 0xdb) readTables(data, body, end, tables);
      else if (marker === 0xc4) readCodes(data, body, end, codes);
      else if (marker === 0xdd) restart = word(data, body);
      else if (marker === 0xe0) jfif ||= textAt(data, body, 4) === "JFIF";
      else if (marker === 0xe1) orientation ||= orientationOf(data, body, end);
      else if (marker === 0xee) adobe = textAt(data, body, 5) === "Adobe" ? data[body + 11] : adobe;
      else if (marker >= 0xc0 && marker <= 0xc2) frame = laidOut(readFrame(data, body, marker === 0xc2));
      else if (marker > 0xc2 && marker <= 0xcf) throw new Error("a lossless or arithmetic-coded JPEG is not supported");
      else if (marker === 0xda) {
        if (!frame) throw new Error("this JPEG is damaged");
        at = readScan(data, body, end, { frame, tables, codes, restart });
        scanned = true;
      }
    }
    if (!scanned) throw new Error("this JPEG ends before its picture");
    return Object.assign(frame, { orientation: orientation || 1, colours: coloursOf(frame.components, jfif, adobe) });
  }

  function coloursOf(components, jfif, adobe) {
    if (components.length === 1) return "grey";
    if (components.length === 4) return adobe === 2 ? "ycck" : "cmyk";
    if (jfif) return "ycc";
    if (adobe >= 0) return adobe === 0 ? "rgb" : "ycc";
    return String.fromCharCode(...components.map((one) => one.id)) === "RGB" ? "rgb" : "ycc";
  }

  // --- Coded data --------------------------------------------------------------------------------------------------

  /** Reads bits; behind the data, or a marker, there are zeros, of which `missing` counts those that were used. */
  class Bits {
    constructor(data, at) { Object.assign(this, { data, at, buffer: 0, count: 0, added: 0 }); }
    fill() {
      while (this.count <= 16) {
        let byte = this.at < this.data.length ? this.data[this.at] : 0xff;
        if (byte !== 0xff) this.at++;
        else if (this.data[this.at + 1] === 0) this.at += 2;
        else { byte = 0; this.added += 8; }
        this.buffer = (this.buffer << 8) | byte;
        this.count += 8;
      }
    }
    get missing() { return this.added - this.count; }
    get(length) {
      if (length === 0) return 0;
      if (this.count < length) this.fill();
      this.count -= length;
      return (this.buffer >> this.count) & ((1 << length) - 1);
    }
    symbol(lookup) {
      if (this.count < 16) this.fill();
      const found = lookup[(this.buffer >> (this.count - 16)) & 0xffff];
      if (found === 0) throw new Error("this JPEG is damaged: it holds a wrong code");
      this.count -= found >> 8;
      return found & 255;
    }
    signed(length) {
      const value = this.get(length);
      return length && value < 1 << (length - 1) ? value - (1 << length) + 1 : value;
    }
    /** Goes to behind the next restart marker. */
    restart() {
      Object.assign(this, { buffer: 0, count: 0, added: 0 });
      while (this.at + 1 < this.data.length && !(this.data[this.at] === 0xff && this.data[this.at + 1] > 0)) this.at++;
      if ((this.data[this.at + 1] & 0xf8) === 0xd0) this.at += 2;
    }
  }

  const BASELINE = (scan) => (bits, one, out, at) => {
    one.predicted += bits.signed(bits.symbol(scan.codes[one.dc]));
    out[at] = one.predicted;
    const lookup = scan.codes[0x10 | one.ac];
    for (let k = 1; k < 64; k++) {
      const symbol = bits.symbol(lookup), length = symbol & 15;
      k += symbol >> 4;
      if (length) out[at + ZIGZAG[k & 63]] = bits.signed(length);
      else if (symbol !== 0xf0) break;
    }
  };
  const DC_FIRST = (scan) => (bits, one, out, at) => {
    one.predicted += bits.signed(bits.symbol(scan.codes[one.dc]));
    out[at] = one.predicted << scan.low;
  };
  const DC_MORE = (scan) => (bits, one, out, at) => { out[at] |= bits.get(1) << scan.low; };
  const AC_FIRST = (scan) => (bits, one, out, at) => {
    if (scan.empty) { scan.empty--; return; }
    const lookup = scan.codes[0x10 | one.ac];
    for (let k = scan.start; k <= scan.end; k++) {
      const symbol = bits.symbol(lookup), run = symbol >> 4, length = symbol & 15;
      if (length === 0 && run < 15) { scan.empty = (1 << run) + bits.get(run) - 1; return; }
      k += run;
      if (length) out[at + ZIGZAG[k & 63]] = bits.signed(length) * (1 << scan.low);
    }
  };
  const AC_MORE = (scan) => (bits, one, out, at) => {
    const lookup = scan.codes[0x10 | one.ac], step = 1 << scan.low;
    const refine = (place) => {
      if (bits.get(1) && !(Math.abs(out[place]) & step)) out[place] += out[place] > 0 ? step : -step;
    };
    let k = scan.start;
    while (k <= scan.end && !scan.empty) {
      const symbol = bits.symbol(lookup);
      let run = symbol >> 4, value = 0;
      if (symbol & 15) value = bits.get(1) ? step : -step;
      else if (run < 15) { scan.empty = (1 << run) + bits.get(run); break; }
      for (; k <= scan.end; k++) {
        const place = at + ZIGZAG[k];
        if (out[place]) refine(place);
        else if (run-- === 0) { if (value) out[place] = value; k++; break; }
      }
    }
    if (!scan.empty) return;
    for (; k <= scan.end; k++) if (out[at + ZIGZAG[k]]) refine(at + ZIGZAG[k]);
    scan.empty--;
  };

  /** Reads a scan into the components' coefficients; returns where it ends. */
  function readScan(data, at, end, { frame, tables, codes, restart }) {
    const count = data[at];
    const chosen = [...Array(count).keys()].map((i) => {
      const one = frame.components.find((other) => other.id === data[at + 1 + 2 * i]);
      if (!one) throw new Error("this JPEG is damaged");
      one.quantum ??= tables[one.table];
      return Object.assign(one, { dc: data[at + 2 + 2 * i] >> 4, ac: data[at + 2 + 2 * i] & 15, predicted: 0 });
    });
    const [start, last, bitsDone] = data.subarray(at + 1 + 2 * count, at + 4 + 2 * count);
    const scan = { codes, start, end: last, low: bitsDone & 15, empty: 0 };
    const more = bitsDone >> 4;
    const kind = !frame.progressive ? BASELINE : start === 0 ? (more ? DC_MORE : DC_FIRST) : more ? AC_MORE : AC_FIRST;
    const decode = kind(scan);
    const alone = count === 1 && chosen[0];
    const across = alone ? alone.across : frame.mcusAcross, down = alone ? alone.down : frame.mcusDown;
    const bits = new Bits(data, end);
    for (let mcu = 0; mcu < across * down; mcu++) {
      if (restart && mcu && mcu % restart === 0) {
        if (bits.missing > 0) throw new Error("this JPEG is damaged: a part of its picture is missing");
        bits.restart();
        scan.empty = 0;
        for (const one of chosen) one.predicted = 0;
      }
      const column = mcu % across, row = (mcu - column) / across;
      if (alone) { decode(bits, alone, alone.coefficients, 64 * (row * alone.stride + column)); continue; }
      for (const one of chosen) {
        for (let y = 0; y < one.v; y++) {
          for (let x = 0; x < one.h; x++) {
            decode(bits, one, one.coefficients, 64 * ((row * one.v + y) * one.stride + column * one.h + x));
          }
        }
      }
    }
    if (bits.missing > 0) throw new Error("this JPEG ends before its picture does");
    return bits.at;
  }

  return { read, laidOut, exifOrientation, textAt };
})();
