import { useState } from "preact/hooks";

import { loginWanted } from "../api/rpc";
import { Dialog } from "./parts";

/** Asks for a token; it goes into a cookie that scripts cannot read. */
export function Login() {
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const send = async (event: Event): Promise<void> => {
    event.preventDefault();
    const response = await fetch("/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: token.trim() }),
    }).catch(() => null);
    if (!response) return setError("The server cannot be reached");
    if (response.status === 429) return setError("Too many attempts: wait a minute");
    if (!response.ok) return setError("This is not a valid token");
    loginWanted.value = false;
  };
  return (
    <Dialog title="Sign in" onClose={() => undefined}>
      <form onSubmit={(event) => void send(event)} class="stack">
        <label>
          Token
          <input
            type="password"
            autocomplete="current-password"
            autofocus
            value={token}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </label>
        <p class="muted">Whoever runs this server gives you one.</p>
        {error && <p class="error-text">{error}</p>}
        <div class="actions">
          <button class="primary" type="submit" disabled={!token.trim()}>
            Sign in
          </button>
        </div>
      </form>
    </Dialog>
  );
}
