// Asks for the token where the server wants one. It goes to the server only, which answers with a cookie scripts cannot read.

import { useState } from "preact/hooks";
import * as format from "../format";
import { login } from "../state";
import { Dialog } from "./basic";

export function Login() {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const enter = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await login(token);
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
      setBusy(false);
    }
  };
  return (
    <Dialog title="This page needs a token" closable={false} onClose={() => {}}>
      <form onSubmit={enter}>
        <p>It is the value of <code>token</code> under <code>[page]</code> in the configuration.</p>
        <label class="field-row">
          <span>Token</span>
          <input type="password" name="token" autocomplete="current-password" required value={token} onInput={(event) => setToken(event.currentTarget.value)} aria-describedby="login-problem" aria-invalid={problem !== ""} />
        </label>
        <p id="login-problem" class="problem" role="alert">
          {format.visible(problem)}
        </p>
        <div class="buttons">
          <button type="submit" class="primary" disabled={busy}>
            Log in
          </button>
        </div>
      </form>
    </Dialog>
  );
}
