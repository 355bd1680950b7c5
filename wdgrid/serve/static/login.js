"use strict";
// Exchanges the token for a cookie. A token after the # is taken out of the address at once.

async function login(token) {
  try {
    await ask("/login", { token });
    location.replace("/");
  } catch (error) {
    at("said").textContent = error.message;
  }
}

at("login").addEventListener("submit", (event) => { event.preventDefault(); login(at("token").value); });
if (location.hash.length > 1) {
  const token = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", "/login");
  login(token);
}
