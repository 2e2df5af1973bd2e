"use strict";
// The only script of a page; its policy allows it by hash. Texts of strangers become text nodes and nothing else.
(function () {
  const STEP = 100;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  for (const video of document.querySelectorAll("video")) {
    const figure = video.closest("figure");
    const button = document.createElement("button");
    const name = video.getAttribute("aria-label");
    let held = false;  // started by its button: plays on without the mouse

    function say() {
      button.textContent = video.paused ? "\u25b6" : "\u2759\u2759";
      button.setAttribute("aria-label", (video.paused ? "Play: " : "Pause: ") + name);
    }
    function play() {
      video.play().catch(function () {});
    }
    button.type = "button";
    button.className = "play";
    button.addEventListener("click", function () {
      held = video.paused;
      if (held) play();
      else video.pause();
    });
    figure.addEventListener("pointerenter", function (event) {
      if (event.pointerType === "mouse" && !calm) play();
    });
    figure.addEventListener("pointerleave", function () {
      if (held) return;
      video.pause();
      if (video.readyState > 0) video.currentTime = 0;
    });
    video.addEventListener("play", say);
    video.addEventListener("pause", say);
    video.controls = false;
    video.after(button);
    say();
  }

  const form = document.getElementById("finder");
  if (!form) return;
  const data = JSON.parse(document.getElementById("row-data").textContent);
  const count = data.keys.length;
  const texts = data.keys.map(function (key, i) {
    return (key + " " + (data.captions[i] || "")).toLowerCase();
  });
  const tiles = Array.from(document.querySelectorAll("figure[data-outcome]"), function (figure) {
    return {
      figure: figure,
      text: figure.querySelector("figcaption").textContent.toLowerCase(),
      outcome: figure.dataset.outcome,
      numbers: (figure.dataset.numbers || "").split(" ").map(function (word) { return word === "" ? null : Number(word); }),
    };
  });
  const tileOfKey = new Map(tiles.map(function (tile) { return [tile.figure.dataset.key, tile.figure]; }));
  const groups = Array.from(document.querySelectorAll("[data-group]"));
  const body = document.getElementById("row-body");
  const more = document.getElementById("more-rows");
  const status = document.getElementById("found");
  let found = [];
  let shown = 0;

  function asked() {
    const bounds = data.names.map(function (name, i) {
      const low = form.elements["low" + i].value, high = form.elements["high" + i].value;
      return { low: low === "" ? null : Number(low), high: high === "" ? null : Number(high) };
    });
    return {
      words: form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean),
      outcome: form.elements.outcome.value,
      bounds: bounds,
    };
  }

  function fits(want, text, outcome, number) {
    if (want.outcome && outcome !== want.outcome) return false;
    for (let i = 0; i < want.bounds.length; i++) {
      const bound = want.bounds[i];
      if (bound.low === null && bound.high === null) continue;
      const value = number(i);
      if (value === null || value === undefined) return false;
      if (bound.low !== null && value < bound.low) return false;
      if (bound.high !== null && value > bound.high) return false;
    }
    return want.words.every(function (word) { return text.includes(word); });
  }

  function cell(row, text, css) {
    const td = row.insertCell();
    td.textContent = text;
    if (css) td.className = css;
    return td;
  }

  function showRows(upTo) {
    const fragment = document.createDocumentFragment();
    for (; shown < Math.min(upTo, found.length); shown++) {
      const i = found[shown], row = document.createElement("tr"), key = cell(row, "");
      const code = document.createElement("code"), figure = tileOfKey.get(data.keys[i]);
      code.textContent = data.keys[i];
      if (figure) {
        const link = document.createElement("a");
        link.href = "#" + figure.id;
        link.append(code);
        key.append(link);
      } else key.append(code);
      cell(row, data.outcomes[data.outcome[i]]);
      data.numbers.forEach(function (column) { cell(row, column[i] === null ? "" : String(column[i])); });
      if (data.captions.length) cell(row, data.captions[i], "text");
      fragment.append(row);
    }
    body.append(fragment);
    more.hidden = shown >= found.length;
    more.textContent = "Show " + Math.min(STEP, found.length - shown) + " more";
  }

  function update() {
    const want = asked();
    let visible = 0;
    for (const tile of tiles) {
      const fit = fits(want, tile.text, tile.outcome, function (i) { return tile.numbers[i]; });
      tile.figure.hidden = !fit;
      visible += fit ? 1 : 0;
    }
    for (const group of groups) group.hidden = !group.querySelector("figure:not([hidden])");
    found = [];
    for (let i = 0; i < count; i++) {
      if (fits(want, texts[i], data.outcomes[data.outcome[i]], function (n) { return data.numbers[n][i]; })) found.push(i);
    }
    body.replaceChildren();
    shown = 0;
    showRows(STEP);
    status.textContent = visible.toLocaleString("en") + " of " + tiles.length.toLocaleString("en") + " samples shown, " +
      found.length.toLocaleString("en") + " of " + count.toLocaleString("en") + " rows listed";
  }

  let timer = 0;
  function later() {
    clearTimeout(timer);
    timer = setTimeout(update, 60);
  }
  form.addEventListener("input", later);
  form.addEventListener("reset", later);
  form.addEventListener("submit", function (event) {
    event.preventDefault();
    update();
  });
  more.addEventListener("click", function () {
    const first = shown;
    showRows(shown + STEP);
    body.rows[first].tabIndex = -1;
    body.rows[first].focus();
  });
  for (const element of document.querySelectorAll("[data-scripted]")) element.hidden = false;
  update();
})();
