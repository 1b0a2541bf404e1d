"""`fastbert distill` as a script."""

from jobs.options import command

main = command("distill")

if __name__ == "__main__":
    main()
