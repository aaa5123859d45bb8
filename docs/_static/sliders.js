// Brings the sliders of a page to life: each state is a picture and a text that were made when the book was built.
"use strict";

function bringToLife(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const controls = [...box.querySelectorAll("input, select")];
  const lengths = controls.map((control) => (control.options ? control.options.length : Number(control.max) + 1));
  const text = box.querySelector(".slider-text");
  const picture = box.querySelector(".slider-picture");

  function place(control) {
    return control.options ? control.selectedIndex : Number(control.value);
  }

  function show() {
    const index = controls.reduce((sum, control, i) => sum * lengths[i] + place(control), 0);
    const [name, words] = data.states[index];
    for (const control of controls) {
      if (control.options) continue;
      const value = JSON.parse(control.dataset.values)[place(control)];
      control.setAttribute("aria-valuetext", value);
      control.nextElementSibling.textContent = value;
    }
    text.innerHTML = words;
    if (name === null) return; // values that do not go together: the text says why, the picture stays
    picture.src = data.folder + "/" + name;
    picture.alt = data.alt + ": " + text.textContent;
  }

  for (const control of controls) {
    control.disabled = false;
    control.addEventListener("input", show);
  }
}

document.querySelectorAll(".slider").forEach(bringToLife);
