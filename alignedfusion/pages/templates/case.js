"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const overlays = document.querySelectorAll(".overlay");
const fade = document.getElementById("fade");
const against = document.getElementById("against");

function setFade() {
  for (const overlay of overlays) overlay.style.opacity = fade.value / 100;
}

function setClasses() {
  const chosen = data.overlays[against.value];
  for (const overlay of overlays) overlay.src = chosen.images[overlay.dataset.image];
  document.getElementById("first").textContent = chosen.first;
  document.getElementById("other").textContent = chosen.other;
}

function percent(share) {
  return (100 * share).toFixed(1) + " %";
}

function show(probabilities, words) {
  for (const row of document.querySelectorAll("#classes tr[data-class]")) {
    const share = probabilities[row.dataset.class];
    row.querySelector("meter").value = share;
    row.querySelector(".number").textContent = percent(share);
  }
  document.getElementById("now").textContent = words;
}

if (fade) {
  fade.addEventListener("input", setFade);
  against.addEventListener("change", setClasses);
  setFade();
}

const answers = document.querySelectorAll("button[data-then]");
for (const answer of answers) {
  answer.addEventListener("click", () => {
    const isChosen = answer.getAttribute("aria-pressed") === "true";
    for (const other of answers) other.setAttribute("aria-pressed", "false");
    if (isChosen) return show(data.probabilities, "");
    answer.setAttribute("aria-pressed", "true");
    show(JSON.parse(answer.dataset.then), "If " + answer.dataset.name + " were " + answer.dataset.value + ".");
  });
}
