import { useState } from "preact/hooks";

import { inWords, loginWanted } from "../api/rpc";
import { caller, loadCaller } from "../model/caller";
import { Brand } from "./Masthead";
import { Dialog, ThemeButton } from "./parts";

/** Asks for a token; it goes into a cookie that scripts cannot read. A page at first, a window where a session ended. */
export function Login() {
  if (caller.value)
    return (
      <Dialog title="Sign in again" onClose={() => undefined} fixed>
        <p>Your session has ended. What you drew is kept on this machine.</p>
        <LoginForm />
      </Dialog>
    );
  return (
    <div class="page">
      <header class="masthead">
        <Brand />
        <ThemeButton />
      </header>
      <main class="column login">
        <h1>Sign in</h1>
        <LoginForm />
      </main>
    </div>
  );
}

function LoginForm() {
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const send = async (event: Event): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setError(await begin(token.trim()));
    setBusy(false);
  };
  return (
    <form onSubmit={(event) => void send(event)} class="stack">
      <label>
        Token
        <input
          type="password"
          autocomplete="current-password"
          ref={(input) => void (token || input?.focus())}
          value={token}
          aria-invalid={Boolean(error)}
          aria-describedby="login-note"
          onInput={(event) => setToken(event.currentTarget.value)}
        />
      </label>
      <p class={error ? "error-text" : "muted"} id="login-note" role="status">
        {error || "Whoever runs this server gives you one. It begins with mm_."}
      </p>
      <div class="actions">
        <button class="primary" type="submit" disabled={busy || !token.trim()}>
          Sign in
        </button>
      </div>
    </form>
  );
}

/** Show the token to the server; why it did not do, empty if it did. */
async function begin(token: string): Promise<string> {
  const response = await fetch("/sign-in", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  }).catch(() => null);
  if (!response) return "The server cannot be reached";
  if (response.status === 429) return "Too many attempts: wait a minute";
  if (!response.ok) return "This is not a valid token";
  try {
    await loadCaller();
  } catch (error) {
    return inWords(error);
  }
  loginWanted.value = false;
  return "";
}
