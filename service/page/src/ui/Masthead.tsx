import { Account, ThemeButton } from "./parts";

export function Brand() {
  return (
    <a href="#/" class="brand" aria-label="micromodels, all projects">
      <img src="/icon.svg" width="22" height="22" alt="" />
      micromodels
    </a>
  );
}

/** The header of every view except the editor and the login. */
export function Masthead() {
  return (
    <header class="masthead">
      <Brand />
      <span class="masthead-end">
        <Account />
        <ThemeButton />
      </span>
    </header>
  );
}
