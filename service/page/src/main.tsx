import "./styles/base.css";
import "./styles/home.css";
import "./styles/editor.css";
import "./styles/diagnostics.css";

import { render } from "preact";

import { App } from "./ui/App";

render(<App />, document.getElementById("app")!);
