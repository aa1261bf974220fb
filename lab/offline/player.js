// Two decoders of the same codes in the exported page, and the sliders that move them.
//
// The weights stand in the page as text: whole numbers from -127 to 127, and a scale for each output
// channel. Nothing is loaded, kept or sent. A code or a picture is one Float32Array, channel after
// channel, and a layer is a function of it.
"use strict";

// ---- layers

// The bytes of a base64 text.
function bytesOf(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);

// A layer of the page's text with its weights as floats, those into one output beside each other:
// (out, in), or (out, 4, 4, in) of a transposed convolution, which the text has as (in, out, 4, 4).
function unpacked({ shape, weight, scale, bias, bend }) {
  const [outputs, inputs] = shape.length === 2 ? shape : [shape[1], shape[0]];
  const whole = new Int8Array(bytesOf(weight).buffer), scales = floatsOf(scale);
  const places = whole.length / outputs / inputs;         // of a kernel: 16, or 1
  const floats = new Float32Array(whole.length);
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++)
      for (let k = 0; k < places; k++) {
        const from = places === 1 ? o * inputs + i : (i * outputs + o) * places + k;
        floats[(o * places + k) * inputs + i] = scales[o] * whole[from];
      }
  const apply = places === 1 ? linear : transposedConvolution;
  return { apply, inputs, outputs, weight: floats, bias: floatsOf(bias), bend };
}

// W x + b.
function linear({ inputs, outputs, weight, bias }, x) {
  const y = new Float32Array(outputs);
  for (let o = 0; o < outputs; o++) {
    let sum = bias[o];
    for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[i];
    y[o] = sum;
  }
  return y;
}

// The transposed convolution with 4x4 kernels, stride 2 and padding 1, which doubles a map's side.
// Four neighbours in the smaller map make a pixel, by the weights of the kernel's rows and columns
// 0 and 2, or 1 and 3. A pixel and the next but one share theirs, so that two are made at once: this
// takes two thirds of the time.
function transposedConvolution({ inputs: n, outputs, weight, bias }, x) {
  const side = Math.sqrt(x.length / n), wide = 2 * side, across = (side + 2) * n;
  const map = bordered(x, n, side), y = new Float32Array(outputs * wide * wide);
  for (let row = 0; row < wide; row++)
    for (let column = 0; column < wide; column += column % 2 ? 3 : 1) {     // 0, 1, 4, 5, 8, ...
      const p = ((row + 1) >> 1) * across + ((column + 1) >> 1) * n, q = p + across;
      const first = 4 * ((row + 1) & 1) + ((column + 1) & 1);
      for (let o = 0; o < outputs; o++) {
        const w = (16 * o + first) * n;
        let one = bias[o], other = bias[o];
        for (let i = 0; i < n; i++) {
          const a = weight[w + 10 * n + i], b = weight[w + 8 * n + i];
          const c = weight[w + 2 * n + i], d = weight[w + i];
          const above = map[p + n + i], below = map[q + n + i];             // of both
          one += a * map[p + i] + b * above + c * map[q + i] + d * below;
          other += a * above + b * map[p + 2 * n + i] + c * below + d * map[q + 2 * n + i];
        }
        y[(o * wide + row) * wide + column] = one;
        y[(o * wide + row) * wide + column + 2] = other;
      }
    }
  return y;
}

// A map (n, side, side) as (side + 2, side + 2, n), with zeros around it.
function bordered(x, n, side) {
  const map = new Float32Array((side + 2) * (side + 2) * n);
  for (let i = 0; i < n; i++)
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++)
        map[((row + 1) * (side + 2) + column + 1) * n + i] = x[(i * side + row) * side + column];
  return map;
}

const BENDS = {
  "": (v) => v,
  relu: (v) => Math.max(v, 0),
  sigmoid: (v) => 1 / (1 + Math.exp(-v)),
  clip: (v) => Math.min(Math.max(v, 0), 1),
};

// The picture of a code: 3 x side x side numbers from 0 to 1.
function decode(layers, z) {
  return layers.reduce((x, layer) => layer.apply(layer, x).map(BENDS[layer.bend]), z);
}

// ---- the page

// A draw from the standard normal distribution, by Box and Muller.
function normal() {
  const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
  return radius * Math.cos(2 * Math.PI * Math.random());
}

// Puts a picture on a canvas, as many dots as it has pixels.
function show(canvas, picture) {
  const area = picture.length / 3, side = Math.sqrt(area);
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    const colour = [picture[i], picture[area + i], picture[2 * area + i], 1];
    image.data.set(colour.map((v) => Math.round(255 * v)), 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A slider under its label, with its value as text beside it; `act` is called when it has moved.
function slider(place, name, least, most, value, act) {
  const label = document.createElement("label"), input = document.createElement("input");
  const shown = document.createElement("span");
  Object.assign(input, { type: "range", min: least, max: most, step: 0.1 });
  shown.setAttribute("aria-hidden", "true");              // a screen reader says it of the slider
  label.append(name, input, shown);
  place.append(label);
  const put = (v) => {
    input.value = v;                                      // which keeps it between least and most
    shown.textContent = Number(input.value).toFixed(1).replace("-", "\u2212");
  };
  put(value);
  input.addEventListener("input", () => { put(input.value); act(); });
  return { put, get: () => Number(input.value), input };
}

// The player of one place in the page: z is s times a draw, eight of whose numbers are sliders.
function start(section) {
  const page = JSON.parse(section.querySelector("script").textContent);
  const canvases = section.querySelectorAll("canvas"), told = section.querySelector("output");
  const place = section.querySelector(".sliders"), draw = new Float32Array(page.decoder[0].shape[1]);
  let both;                                               // the decoders, once they are needed

  const act = () => {
    both = both || [page.decoder, page.linear].map((layers) => layers.map(unpacked));
    page.dims.forEach((dim, i) => { draw[dim] = sliders[i].get(); });
    const z = draw.map((v) => scale.get() * v);
    const pictures = both.map((layers) => decode(layers, z));
    pictures.forEach((picture, i) => show(canvases[i], picture));
    reveal(section);
    return pictures;
  };
  // The sentence is for those who do not see the pictures, too: said when a slider comes to rest.
  const tell = () => {
    const [one, other] = act();
    const apart = one.reduce((sum, v, i) => sum + Math.abs(v - other[i]), 0) / one.length;
    told.textContent = `At s = ${scale.get().toFixed(1)} the two pictures are ` +
      `${Math.round(255 * apart)} of 255 grey levels apart on average.`;
  };
  const redraw = () => {
    draw.forEach((_, i) => { draw[i] = normal(); });
    page.dims.forEach((dim, i) => sliders[i].put(draw[dim]));
  };

  const scale = slider(place, "s, the distance from the centre", 0, 3, 1, act);
  const sliders = page.dims.map((dim, i) =>
    slider(place, `dimension ${dim}, ${page.nats[i].toFixed(1)} nats`, -3, 3, 0, act));
  place.addEventListener("change", tell);
  section.querySelector("button").addEventListener("click", () => { redraw(); tell(); });
  redraw();
  section.querySelector(".play").hidden = false;
}

// Shows the pictures in the place of the still above them; what a finger is on stays where it is.
function reveal(section) {
  const cell = section.closest(".jp-Cell"), sliders = section.querySelector(".sliders");
  const before = sliders.getBoundingClientRect().top;
  cell.classList.add("touched");
  window.scrollBy(0, sliders.getBoundingClientRect().top - before);
}

if (typeof document !== "undefined") document.querySelectorAll(".player").forEach(start);
