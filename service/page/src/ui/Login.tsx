import { useState } from "preact/hooks";

import { errorMessage, loginRequired } from "../api/rpc";
import { caller, loadCaller } from "../model/caller";
import { Brand } from "./Masthead";
import { Dialog, ThemeButton } from "./parts";

/** Asks for a token, which goes into a cookie that scripts cannot read; a dialog over the page if access ended during work. */
export function Login() {
  if (caller.value)
    return (
      <Dialog title="Sign in again" onClose={() => undefined} fixed>
        <p>Your access has ended. Your edits are stored in this browser and will be sent after you sign in.</p>
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
    setError(await signIn(token.trim()));
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
        {error || "Authentication required. Ask your administrator for a token; it starts with mm_."}
      </p>
      <div class="actions">
        <button class="primary" type="submit" disabled={busy || !token.trim()}>
          Sign in
        </button>
      </div>
    </form>
  );
}

/** Sign in with a token; gives the error message, empty on success. */
async function signIn(token: string): Promise<string> {
  const response = await fetch("/sign-in", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  }).catch(() => null);
  if (!response) return "Cannot reach the server. Check the connection and try again.";
  if (response.status === 429) return "Too many attempts. Wait a minute and try again.";
  if (!response.ok) return "This token is not valid. Check it, or ask your administrator for a new one.";
  try {
    await loadCaller();
  } catch (error) {
    return errorMessage(error);
  }
  loginRequired.value = false;
  return "";
}
