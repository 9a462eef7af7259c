// Runs the page's decoder under Node: reads a list of jobs, writes what each gives.
"use strict";

const fs = require("fs"), path = require("path"), vm = require("vm");
const [, , scripts, jobs] = process.argv;
const source = ["coded.js", "jpeg.js", "pixels.js"].map((name) => fs.readFileSync(path.join(scripts, name), "utf8"));
const { Coded, Jpeg, Pixels } = vm.runInThisContext(`${source.join("\n")}; ({ Coded, Jpeg, Pixels })`);

const KINDS = {
  decoded: (data, job) => Jpeg.decode(Coded.read(data), job.ratio).pixels,
  encoded: (data, job) => Jpeg.decode(Jpeg.encode({ pixels: data, ...job }), job.ratio).pixels,
  ofJpeg: (data, job) => Pixels.ofJpeg(data, job.spec),
  ofPixels: (data, job) => Pixels.ofPixels({ pixels: data, ...job }, job.spec),
};

for (const job of JSON.parse(fs.readFileSync(jobs, "utf8"))) {
  try {
    const found = KINDS[job.kind](new Uint8Array(fs.readFileSync(job.file)), job);
    fs.writeFileSync(job.output, Buffer.from(found.buffer));
  } catch (error) {
    fs.writeFileSync(`${job.output}.error`, error.message);
  }
}
