import CLive
import HMM
